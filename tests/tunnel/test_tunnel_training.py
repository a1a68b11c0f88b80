"""The tunnel with the real trainer, at sizes of seconds: runs, transfer, coordinate check, comparison, the commands."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

from whimbrel.cli.main import app
from whimbrel.errors import FormatError, InvalidParameter, UsageError
from whimbrel.tunnel.compare import compare, searched_rate
from whimbrel.tunnel.coordcheck import coordcheck
from whimbrel.tunnel.corpus import prepare
from whimbrel.tunnel.training import ModelRunner
from whimbrel.tunnel.transfer import transfer
from whimbrel.tunnel.trial import DONE, STOPPED, Outcome, Trial

WORDS = [
    "the",
    "whimbrel",
    "walks",
    "along",
    "the",
    "shore",
    "and",
    "looks",
    "for",
    "crabs",
    "while",
    "the",
    "tide",
    "goes",
    "out",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(60 + i % 7)) for i in range(1, 60)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def runner(text: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    folder = tmp_path_factory.mktemp("work")
    corpus = prepare(text, folder / "corpus", vocab_size=300)
    return ModelRunner(corpus=corpus, work=folder / "runs", layers=2, head_dim=16, sequence=32, base_width=32)


def trial(width: int = 32, rate: float = 0.01, kind: str = "mup", steps: int = 12) -> Trial:
    return Trial(width=width, rate=rate, tokens_per_step=128, steps=steps, parametrization=kind)


def test_a_trial_trains_and_leaves_no_folder(runner: ModelRunner) -> None:
    outcome = runner(trial())
    assert outcome.status == DONE and outcome.loss is not None
    assert outcome.curve[-1][1] < outcome.curve[0][1]
    assert not list(runner.work.glob("*lr0.01*"))


def test_a_run_that_misses_a_bar_is_stopped(runner: ModelRunner) -> None:
    outcome = runner(trial(), ((6, 0.1),))
    assert outcome.status == STOPPED and outcome.loss is None and outcome.curve[-1][0] == 6
    assert "above the bar of 0.100 at step 6" in outcome.reason


def test_impossible_trials_are_refused(runner: ModelRunner) -> None:
    with pytest.raises(InvalidParameter, match="no multiple of the head size"):
        runner(trial(width=40))
    with pytest.raises(InvalidParameter, match="no multiple of the sequence length"):
        runner.train_recipe(Trial(width=32, rate=0.01, tokens_per_step=100, steps=5))


def test_activations_keep_their_size_in_mup_only(runner: ModelRunner) -> None:
    mup, standard = (
        coordcheck(runner, [32, 64, 128, 256], parametrization=kind, rate=0.005, steps=3)
        for kind in ("mup", "standard")
    )
    assert mup.flat and mup.widths == (32, 64, 128, 256)
    assert not standard.flat and standard.steepest > mup.steepest + 0.2
    with pytest.raises(InvalidParameter, match="at least 2 widths"):
        coordcheck(runner, [64])


def made(kind: str, best: dict[int, float]) -> list[tuple[Trial, Outcome]]:
    return [
        (
            trial(width, rate, kind),
            Outcome(status=DONE, loss=3 + abs(i - [1e-3, 2e-3, 4e-3, 8e-3, 16e-3].index(at)), curve=(), parameters=1,
                    tokens=1, seconds=0.0),
        )
        for width, at in best.items()
        for i, rate in enumerate([1e-3, 2e-3, 4e-3, 8e-3, 16e-3])
    ]  # fmt: skip


def test_a_moving_optimum_is_counted_in_factors_of_two() -> None:
    mup, standard = transfer([*made("mup", {64: 4e-3, 128: 4e-3}), *made("standard", {64: 8e-3, 128: 2e-3, 256: 1e-3})])
    assert (mup.moves, mup.drift) == (0, 0)
    assert (standard.moves, standard.drift) == (3, -3)
    assert standard.fixed == ((64, 0), (128, 2), (256, 3))
    assert standard.widths[-1].at_edge and not standard.widths[0].at_edge
    with pytest.raises(UsageError, match="finished runs of two widths"):
        transfer(made("mup", {64: 4e-3}))


def test_the_searched_rate_is_the_widest_narrower_width_s_and_no_edge() -> None:
    runs = made("mup", {64: 4e-3, 128: 8e-3, 512: 1e-3})
    assert searched_rate(runs, 256) == 8e-3
    with pytest.raises(UsageError, match="edge"):
        searched_rate(runs, 1024)
    with pytest.raises(UsageError, match="narrower than 64"):
        searched_rate(runs, 64)


def test_both_sides_of_a_comparison_see_the_same_tokens(runner: ModelRunner) -> None:
    mup, standard = compare(runner, width=32, steps=12, tokens_per_step=128, mup_rate=0.01)
    assert mup.trial.rate == 0.01 and standard.trial.parametrization == "standard"
    assert mup.outcome.tokens == standard.outcome.tokens
    assert mup.conditional is not None and standard.conditional is not None


def test_the_commands_sweep_go_on_and_draw(text: Path, tmp_path: Path) -> None:
    common = ["--text", str(text), "--work", str(tmp_path), "--vocabulary", "300", "--layers", "1", "--sequence", "32"]
    grid = ["--widths", "32,64", "--rates", "5e-3,1e-2", "--batches", "64", "--steps", "6"]
    for _ in range(2):
        done = CliRunner().invoke(app, ["tunnel", "sweep", *common, *grid, "--json"])
        assert done.exit_code == 0, done.output
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 5
    picture = tmp_path / "transfer.png"
    done = CliRunner().invoke(app, ["tunnel", "transfer", str(tmp_path / "ledger.jsonl"), "--picture", str(picture)])
    assert done.exit_code == 0 and "the best rate moves by" in done.output, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    other = CliRunner().invoke(app, ["tunnel", "sweep", *common[:-2], "--sequence", "64", *grid])
    assert other.exit_code == 2


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one"}\n')
    with pytest.raises(FormatError, match="1 documents, at least 20"):
        prepare(path, tmp_path / "corpus")
    path.write_text('{"words": "one"}\n')
    with pytest.raises(FormatError, match="line 1: an object with a `text`"):
        prepare(path, tmp_path / "corpus")
