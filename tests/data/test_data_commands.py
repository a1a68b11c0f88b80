"""``whimbrel data`` from the command line: train, score, filter, explain."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from whimbrel.cli.main import app
from whimbrel.data.scoring.classifier import QualityClassifier
from whimbrel.data.scoring.explain import explain
from whimbrel.data.scoring.held_out import draw, measure
from whimbrel.data.scoring.split import split

pytest.importorskip("fasttext", reason="needs the extra [data]")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments), "--quiet"])


@pytest.fixture
def pages(tmp_path: Path, clean: list[str], noisy: list[str]) -> tuple[Path, Path]:
    paths = tmp_path / "clean.jsonl", tmp_path / "noisy.jsonl"
    for path, texts in zip(paths, (clean, noisy), strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return paths


def test_train_score_filter_explain(tmp_path: Path, pages: tuple[Path, Path], bpe: Path) -> None:
    made = tmp_path / "q.bin"
    small = ("--preset", "small", "--dim", 16, "--bucket", 5000, "--threads", 1, "--held-out", 0.2, "--lr", 1)
    result = call(
        "train-classifier", "-p", pages[0], "-n", pages[1], "-t", bpe, "-o", made, *small,
        "--picture", tmp_path / "roc.png", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["f1"] > 0.9 and report["auc"] > 0.95 and (tmp_path / "roc.png").stat().st_size > 5000
    scorer = ("-c", made, "-t", bpe, "-w", 1, "--json")
    result = call("score", *pages, "-o", tmp_path / "scored", *scorer)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kept"] == json.loads(result.stdout)["documents"]
    result = call("filter", *pages, "-o", tmp_path / "kept", "--threshold", 0.6, "--dedup", "exact", *scorer)
    assert result.exit_code == 0, result.output
    reasons = json.loads(result.stdout)["reasons"]
    assert reasons["quality: below the threshold"] > 100
    result = call("explain", pages[1], "-c", made, "-t", bpe, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["negative"][0]["share"] < 0


def test_rules_languages_and_contamination(tmp_path: Path, pages: tuple[Path, Path], clean: list[str]) -> None:
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text(json.dumps({"question": clean[0], "choices": ["a", "b"]}))
    result = call(
        "filter", *pages, "-o", tmp_path / "out", "--rules", "gopher,fineweb", "--language", "en",
        "--decontaminate", evaluation, "-w", 1, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    reasons = json.loads(result.stdout)["reasons"]
    assert any(reason.startswith("gopher") for reason in reasons)
    assert call("filter", *pages, "-o", tmp_path / "x", "--rules", "best").exit_code == 2
    assert call("filter", *pages, "-o", tmp_path / "x", "--runner", "slurm").exit_code == 2
    assert call("filter", tmp_path / "none.jsonl", "-o", tmp_path / "x").exit_code == 3


def test_shares_add_up_to_the_logit(model: Path, bpe: Path, clean: list[str]) -> None:
    classifier = QualityClassifier(model, bpe)
    result = explain(classifier, clean[3], top=10_000)
    shares = sum(gram.share for gram in (*result.positive, *result.negative))
    assert shares == pytest.approx(result.logit, abs=1e-9)
    assert result.score == pytest.approx(classifier.score([clean[3]])[0], abs=1e-9)


def test_measures_against_cases_worked_by_hand(tmp_path: Path) -> None:
    import numpy as np

    result = measure(np.array([0.9, 0.8, 0.4]), np.array([0.7, 0.1, float("nan")]))
    assert (result.precision, result.recall) == (2 / 3, 2 / 3) and result.f1 == pytest.approx(2 / 3)
    assert result.auc == pytest.approx(8 / 9)
    draw(result, tmp_path / "a.svg")
    assert measure(np.ones(4), np.ones(4)).auc == 0.5


def test_copies_of_a_text_are_held_out_together() -> None:
    kept, held = split([f"text {i % 50}" for i in range(500)], 0.3)
    assert not set(kept) & set(held) and 0 < len(held) < 300
