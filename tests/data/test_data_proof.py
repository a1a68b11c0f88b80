"""Verification decides by statistics, and the loop finds the better text with a trainer that is only a callable."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from whimbrel.data.proof.arm import Arm, Outcome
from whimbrel.data.proof.decision import decide
from whimbrel.data.proof.loop import ultraclean
from whimbrel.data.proof.recipe import read_recipe
from whimbrel.data.proof.verify import verify
from whimbrel.data.running.local import LocalRunner
from whimbrel.data.scoring.pieces import Pieces
from whimbrel.errors import FormatError, InvalidParameter, UsageError
from whimbrel.formats.shards import ShardReader, ShardWriter, open_shards


def runs(shift: float, seeds: int = 3, items: int = 50, spread: float = 0.1) -> list[dict[str, Any]]:
    draw = np.random.default_rng(5)
    return [{"a": draw.normal(shift, spread, items), "b": draw.normal(shift, spread, items)} for _ in range(seeds)]


def test_a_gain_beyond_two_errors_is_accepted_and_noise_is_not() -> None:
    base = runs(0)
    better = decide([{k: v + 0.2 for k, v in run.items()} for run in base], base)
    assert better.accepted and better.gain.mean == pytest.approx(0.2) and better.gain.error < 1e-9
    draw = np.random.default_rng(1)
    same = decide([{k: v + draw.normal(0, 0.3, len(v)) for k, v in run.items()} for run in base], base)
    assert not same.accepted and abs(same.gain.mean) < 4 * same.gain.error


def test_one_benchmark_that_gets_worse_vetoes() -> None:
    base = runs(0)
    found = decide([{"a": run["a"] + 1.0, "b": run["b"] - 0.1} for run in base], base)
    assert found.gain.mean > 0 and not found.accepted and found.harmed == ("b",)
    assert "worse on b" in found.verdict


def test_the_error_is_that_of_the_mean_over_seeds_and_items() -> None:
    draw = np.random.default_rng(2)
    base = [{"a": np.zeros(400)} for _ in range(20)]
    candidate = [{"a": draw.normal(0, 1, 400) + draw.normal(0, 0.5)} for _ in range(20)]
    expected = np.std([run["a"].mean() for run in candidate]) / np.sqrt(20)
    assert decide(candidate, base).gain.error == pytest.approx(expected, rel=0.35)


def test_runs_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="paired"):
        decide(runs(0), runs(0, seeds=2))
    with pytest.raises(InvalidParameter, match="items"):
        decide(runs(0), runs(0, items=3))


class Toy:
    """A model that becomes as good as its text is free of menus."""

    def __init__(self, pieces: Pieces, default: tuple[str, ...]) -> None:
        self.pieces, self.default, self.calls = pieces, default, 0

    def __repr__(self) -> str:
        return "Toy()"

    def __call__(self, arm: Arm) -> Outcome:
        self.calls += 1
        text = "".join(self._text(arm.candidate)) or "".join(self._text(self.default))
        quality = 1 - 20 * (text.count("click") + text.count("FREE")) / max(len(text.split()), 1)
        items = np.random.default_rng(arm.seed).normal(quality, 0.01, 30)
        return Outcome(scores={"toy": items}, tokens=1000, seconds=0.1)

    def _text(self, shards: tuple[str, ...]) -> list[str]:
        return (
            [self.pieces.strings[i] for shard in open_shards(shards) for i in shard.tokens.tolist()] if shards else []
        )


@pytest.fixture
def made(tmp_path: Path, clean: list[str], noisy: list[str], bpe: Path) -> Callable[[str, list[str]], str]:
    pieces = Pieces.open(bpe)

    def shard(name: str, texts: list[str]) -> str:
        path = tmp_path / f"{name}.shard"
        with ShardWriter(path, vocab_size=len(pieces.strings), vocabulary=pieces.fingerprint) as writer:
            for text in texts:
                writer.add(np.frombuffer(pieces.ids(text), np.int32))
        return str(path)

    return shard


def test_candidates_are_ranked_and_finished_runs_are_kept(
    tmp_path: Path, bpe: Path, made: Callable[[str, list[str]], str], clean: list[str], noisy: list[str]
) -> None:
    sets = {"noisy": [made("n", noisy)], "clean": [made("c", clean)], "mixed": [made("m", clean[:50] + noisy[:50])]}
    toy = Toy(Pieces.open(bpe), (made("d", clean[:80] + noisy[:80]),))
    found = verify(sets, toy, tmp_path / "runs")
    assert found.ranking == ["clean", "mixed", "noisy"] and toy.calls == 12
    assert found.decisions["clean"].accepted and not found.decisions["noisy"].accepted
    assert found.tokens == 12_000
    again = verify(sets, toy, tmp_path / "runs")
    assert toy.calls == 12 and again.json() == found.json()
    verify(sets, toy, tmp_path / "runs", share=0.5)
    assert toy.calls == 24


RECIPE = """
negatives = ["{0}/noisy.jsonl"]
sample = ["{0}/pool.jsonl"]
pool = ["{0}/pool.jsonl"]
tokenizer = "{1}"
model_tokenizer = "{1}"
base = "unused"
default = ["unused"]
tokens = 1000
rounds = 2
[seeds]
clean = ["{0}/clean.jsonl"]
junk = ["{0}/junk.jsonl"]
[held_out_sets]
toy = ["unused"]
[classifier]
preset = "small"
dim = 16
bucket = 5000
lr = 1.0
threads = 1
"""


def test_the_loop_finds_the_better_half_of_a_pool(
    tmp_path: Path, bpe: Path, made: Callable[[str, list[str]], str], clean: list[str], noisy: list[str]
) -> None:
    pytest.importorskip("fasttext", reason="needs the extra [data]")
    files = {
        "clean": clean[:200],
        "noisy": noisy[:200],
        "junk": noisy[200:260],
        "pool": clean[200:300] + noisy[200:300],
    }
    for name, texts in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(tmp_path, bpe))
    recipe = read_recipe(tmp_path / "recipe.toml")
    toy = Toy(Pieces.open(bpe), (made("d", clean[:80] + noisy[:80]),))
    report = ultraclean(recipe, toy, LocalRunner(1), tmp_path / "out")
    assert report.seeds["clean"].accepted and not report.seeds["junk"].accepted
    assert report.best is not None and report.final is not None and len(report.rounds) == 2
    assert 70 <= report.final.kept <= 130
    first, second = report.rounds
    assert second.decision.gain.mean >= first.decision.gain.mean - first.decision.gain.error
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| clean |" in text and "rejected" in text
    calls = toy.calls
    ultraclean(recipe, toy, LocalRunner(1), tmp_path / "out")
    assert toy.calls == calls, "what was done is not done again"
    with pytest.raises(UsageError, match="no seed set"):
        ultraclean(replace(recipe, seeds={"junk": recipe.seeds["junk"]}), toy, LocalRunner(1), tmp_path / "bad")


def test_a_recipe_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('tokens = 5\nmodle = "x"\n')
    with pytest.raises(InvalidParameter, match="modle"):
        read_recipe(path)
    path.write_text("tokens = 5\n")
    with pytest.raises(InvalidParameter, match="lacks base, default"):
        read_recipe(path)


def test_verification_with_the_trainer(
    tmp_path: Path, bpe: Path, made: Callable[[str, list[str]], str], clean: list[str], noisy: list[str]
) -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    from whimbrel.cli.main import app
    from whimbrel.models.config import ModelConfig
    from whimbrel.train.parametrization import Optimizer
    from whimbrel.train.pretrain import train_model
    from whimbrel.train.recipe import BatchShape, Recipe
    from whimbrel.train.schedule import WSD

    config = ModelConfig(
        model_type="llama", vocab_size=800, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    default = made("default", clean[:60] + noisy[:60])
    recipe = Recipe(
        schedule=WSD(peak=0.01, warmup=2, total=20, decay=4),
        batch=BatchShape(sequence=64, rows=4),
        optimizer=Optimizer(parametrization="standard"),
    )
    train_model(config, recipe, [default], tmp_path / "base")
    held = made("held", clean[100:110])
    result = CliRunner().invoke(
        app,
        [
            "data", "verify", f"good={made('good', clean[110:200])}", f"bad={made('bad', noisy[110:200])}",
            "--base", str(tmp_path / "base"), "--default", default, "--held-out", f"docs={held}", "-o", str(tmp_path / "v"),
            "--tokens", "2k", "--seeds", "1", "--sequence", "64", "--rows", "4", "--from-scratch", "--scratch-tokens", "3k",
            "--json",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    annealed, scratch = json.loads(result.stdout)["verifications"]
    assert set(annealed["decisions"]) == {"good", "bad"} and len(annealed["ranking"]) == 2
    assert 1000 < annealed["tokens_per_run"] < scratch["tokens_per_run"]
    again = CliRunner().invoke(
        app,
        [
            "data", "verify", f"good={tmp_path / 'good.shard'}", "--base", str(tmp_path / "base"), "--default", default,
            "--held-out", f"docs={held}", "-o", str(tmp_path / "v"), "--tokens", "2k", "--seeds", "1", "--sequence", "64",
            "--rows", "4",
        ],
    )  # fmt: skip
    assert again.exit_code == 0 and "the base took about 5,120 from scratch" in again.stdout, again.output
    items = tmp_path / "sums.jsonl"
    items.write_text(json.dumps({"id": "1", "instruction": "2 times 3?", "reasoning": "", "label": "six"}) + "\n")
    command = [
        "data", "verify", f"good={tmp_path / 'good.shard'}", "--base", str(tmp_path / "base"), "--default", default,
        "-o", str(tmp_path / "w"), "--tokens", "2k", "--seeds", "1", "--sequence", "64", "--rows", "4", "--json",
    ]  # fmt: skip
    answered = CliRunner().invoke(app, [*command, "--items", f"sums={items}", "--tokenizer", str(bpe)])
    assert answered.exit_code == 0, answered.output
    [only] = json.loads(answered.stdout)["verifications"]
    assert list(only["decisions"]["good"]["benchmarks"]) == ["sums"]
    for wrong, why in (
        ([], "nothing measures"),
        (["--items", f"sums={items}"], "give the model's tokenizer"),
        (["--items", f"sums={items}", "--tokenizer", str(bpe), "--held-out", f"sums={held}"], "shards and items"),
    ):
        refused = CliRunner().invoke(app, [*command, *wrong])
        assert refused.exit_code and why in refused.output, refused.output


def test_items_count_by_their_answers_alone(
    tmp_path: Path, bpe: Path, made: Callable[[str, list[str]], str], clean: list[str]
) -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    from whimbrel.data.proof.anneal import _documents
    from whimbrel.data.proof.items import write_items
    from whimbrel.train.batches import IGNORED

    item = {"id": "1", "instruction": "What is 2 times 3?", "reasoning": "", "label": "six"}
    long = {"id": "2", "instruction": "What is 2 times 3? " * 99, "reasoning": "", "label": "six"}
    items = tmp_path / "items.jsonl"
    items.write_text(f"{json.dumps(item)}\n{json.dumps(long)}\n")
    like = ShardReader(made("like", clean[:2])).header
    shard, left_out = write_items(items, bpe, tmp_path, like=like, longest=512)
    assert left_out == ["2"]
    [(ids, targets)] = _documents([str(shard)], 512)
    answer = targets[targets != IGNORED].tolist()
    text = "".join(Pieces.open(bpe).strings[i] for i in answer)
    assert "six" in text and len(text) <= 4 and len(ids) == len(targets) > len(answer)
    with pytest.raises(FormatError, match="none of 2 items fits"):
        write_items(items, bpe, tmp_path, like=like, longest=3)
    with pytest.raises(FormatError, match="the model's own tokenizer"):
        write_items(items, bpe, tmp_path, like=replace(like, vocab_size=7), longest=512)
