"""train_model: it learns, in parts as in one, goes on after any stop, decays from stable checkpoints, refuses nonsense."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_model import MUP_CONFIG as CONFIG
from tiny_model import counting_shard

from whimbrel.errors import FormatError, InvalidParameter, TrainingDiverged, WriteError
from whimbrel.models.rope import rope_table
from whimbrel.train import checkpoint
from whimbrel.train.batches import IGNORED, Batch, Batches
from whimbrel.train.mtp import mtp_loss, mtp_parameters, shifted
from whimbrel.train.network import packed_hidden_states
from whimbrel.train.ops import training_ops
from whimbrel.train.parametrization import Optimizer, initial_parameters, initial_std, rate_scale
from whimbrel.train.pretrain import evaluate_loss, load_checkpoint, train_model
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.schedule import WSD, Cosine, step_law, step_law_batch
from whimbrel.train.spikes import SpikeRule, Spikes

OPTIMIZER = Optimizer(base_width=16)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(total: int = 12, **changes: object) -> Recipe:
    values: dict[str, object] = {
        "schedule": WSD(peak=0.01, warmup=2, total=total, decay=4),
        "optimizer": OPTIMIZER,
        "batch": BatchShape(sequence=32, rows=4),
        "log_every": 1,
        "save_every": 3,
    }
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]


def test_it_learns_and_is_measured(tmp_path: Path) -> None:
    data = counting_shard(tmp_path)
    result = train_model(CONFIG, recipe(40), data, tmp_path / "run", held_out=data)
    assert result.steps == 40 and len(result.curve) == 40 and not result.ended_early
    assert result.curve[0][1] == pytest.approx(np.log(64), rel=0.3)
    assert result.loss < 2.5 and result.held_out_loss == pytest.approx(result.loss, rel=0.3)
    assert evaluate_loss(tmp_path / "run", data, sequence=32) == pytest.approx(result.held_out_loss, rel=1e-5)
    config, parameters, meta = load_checkpoint(result.checkpoint)
    assert config.logit_scale == 0.5 and meta["recipe"]["schedule"]["name"] == "WSD"
    assert set(parameters) == set(initial_parameters(CONFIG, OPTIMIZER))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parts_are_the_same_step(tmp_path: Path, precision: str) -> None:
    data = counting_shard(tmp_path)
    one = train_model(CONFIG, recipe(precision=precision), data, tmp_path / "one")
    parts = train_model(
        CONFIG, recipe(precision=precision, batch=BatchShape(sequence=32, rows=4, parts=3)), data, tmp_path / "parts"
    )
    assert [x for _, x in parts.curve] == pytest.approx(
        [x for _, x in one.curve], rel=1e-4 if precision == "fp32" else 0.02
    )


def test_recomputed_layers_give_the_same_curve(tmp_path: Path) -> None:
    data = counting_shard(tmp_path)
    plain = train_model(CONFIG, recipe(), data, tmp_path / "plain")
    again = train_model(CONFIG, recipe(recompute=True), data, tmp_path / "again")
    assert again.curve == plain.curve


def test_fp8_learns_like_fp32(tmp_path: Path) -> None:
    data = counting_shard(tmp_path)
    exact = train_model(CONFIG, recipe(30), data, tmp_path / "exact")
    coarse = train_model(CONFIG, recipe(30, precision="fp8"), data, tmp_path / "coarse")
    assert coarse.loss == pytest.approx(exact.loss, rel=0.05) and coarse.curve != exact.curve
    assert load_checkpoint(coarse.checkpoint)[2]["fp8"] == "emulated"


def test_mtp_learns_the_token_after_the_next(tmp_path: Path) -> None:
    data = counting_shard(tmp_path)
    train_model(CONFIG, recipe(40, mtp=0.3), data, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["mtp"] < 0.75 * lines[0]["mtp"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["next"] + 0.3 * lines[0]["mtp"], rel=1e-3)
    assert evaluate_loss(tmp_path / "run", data, sequence=32) < 2.5  # without the head


def test_mtp_targets_stay_inside_their_piece() -> None:
    """Pieces 10 11 12 and 20 21: the row before a piece's last is the last with a target."""
    batch = Batch(
        np.array([10, 11, 12, 20, 21], np.int32),
        np.array([11, 12, 13, 21, 22]),
        np.array([0, 1, 2, 0, 1], np.int32),
        np.array([0, 3, 5], np.int32),
    )
    following, targets = shifted(batch)
    assert following.tolist() == [11, 12, 12, 21, 21]
    assert targets.tolist() == [12, 13, IGNORED, 22, IGNORED]


def test_mtp_gradients_reach_the_trunk(tmp_path: Path) -> None:
    trunk = initial_parameters(CONFIG, OPTIMIZER)
    tensors = {**trunk, **mtp_parameters(CONFIG, trunk)}
    batch = Batches(counting_shard(tmp_path), sequence=32, rows=2).batch(0)
    ops, rope = training_ops(), rope_table(CONFIG, 32)
    hidden = packed_hidden_states(CONFIG, trunk, ops, rope, batch)
    mtp_loss(CONFIG, tensors, ops, rope, batch, hidden).backward()
    for name in (
        "model.layers.0.self_attn.q_proj.weight",
        "mtp.join.weight",
        "mtp.mlp.up_proj.weight",
        "lm_head.weight",
    ):
        gradient = tensors[name].grad
        assert gradient is not None and bool(gradient.any()), name


def test_a_decay_begins_at_any_stable_checkpoint(tmp_path: Path) -> None:
    """It is the run that had decayed there from the beginning, bit by bit."""
    data = counting_shard(tmp_path)
    stable = recipe(schedule=WSD(peak=0.01, warmup=2, total=12, decay=0), keep_every=4)
    train_model(CONFIG, stable, data, tmp_path / "stable")
    assert [path.name for path in sorted((tmp_path / "stable").glob("step-*.pt"))] == [
        "step-00000004.pt", "step-00000008.pt", "step-00000012.pt",
    ]  # fmt: skip
    decayed = train_model(CONFIG, recipe(start=tmp_path / "stable" / "step-00000008.pt"), data, tmp_path / "decayed")
    whole = train_model(CONFIG, recipe(), data, tmp_path / "whole")
    assert decayed.curve == whole.curve[8:]
    assert (tmp_path / "whole" / "step-00000008.pt").exists()


def test_nothing_left_to_do_leaves_a_checkpoint_too(tmp_path: Path) -> None:
    """``start`` at the schedule's end: the run's result is that checkpoint; behind the end there is nothing to mean."""
    data = counting_shard(tmp_path)
    stable = recipe(schedule=WSD(peak=0.01, warmup=2, total=6, decay=0), keep_every=6)
    train_model(CONFIG, stable, data, tmp_path / "stable")
    kept = tmp_path / "stable" / "step-00000006.pt"
    result = train_model(CONFIG, replace(stable, start=kept), data, tmp_path / "again", held_out=data)
    assert result.steps == 6 and result.curve == () and not result.ended_early
    assert result.held_out_loss == evaluate_loss(kept, data, sequence=32)
    found, wanted = load_checkpoint(tmp_path / "again")[1], load_checkpoint(kept)[1]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert train_model(CONFIG, replace(stable, start=kept), data, tmp_path / "again").steps == 6
    with pytest.raises(InvalidParameter, match="at step 6, behind the schedule's end, total 4"):
        train_model(
            CONFIG, recipe(start=kept, schedule=WSD(peak=0.01, warmup=2, total=4, decay=0)), data, tmp_path / "b"
        )


def test_a_watcher_ends_a_run_and_it_can_go_on(tmp_path: Path) -> None:
    data = counting_shard(tmp_path)
    early = train_model(CONFIG, recipe(), data, tmp_path / "run", watchers=[lambda line: line["step"] == 4])
    assert early.ended_early and early.steps == 5
    resumed = train_model(CONFIG, recipe(), data, tmp_path / "run")
    assert resumed.curve == train_model(CONFIG, recipe(), data, tmp_path / "whole").curve


def test_a_broken_batch_is_skipped_and_reported(tmp_path: Path) -> None:
    """Not a number once: the step leaves the weights alone. Always: the run ends and says why."""
    data, parameters = counting_shard(tmp_path), initial_parameters(CONFIG, OPTIMIZER)
    with torch.no_grad():
        parameters["model.norm.weight"].fill_(float("nan"))
    rule = SpikeRule(patience=3)
    with pytest.raises(TrainingDiverged, match="3 batches in a row were skipped, the last because the loss is nan"):
        train_model(CONFIG, recipe(spikes=rule), data, tmp_path / "run", parameters=parameters)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] and all("loss is nan" in line["skipped"] for line in lines)


def test_spikes_are_told_from_noise() -> None:
    spikes = Spikes(SpikeRule(window=10))
    for loss in (3.0, 3.1, 2.9, 3.0, 3.05, 2.95, 3.0, 3.1, 2.9, 3.0):
        assert spikes.why_skip(loss, 1.0) is None
    assert spikes.why_skip(3.2, 1.0) is None
    assert "spike" in str(spikes.why_skip(9.0, 1.0)) and spikes.in_a_row == 1
    assert "norm is inf" in str(spikes.why_skip(3.0, float("inf")))
    assert spikes.why_skip(3.0, 1.0) is None and spikes.in_a_row == 0


def test_a_full_disk_is_named_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = counting_shard(tmp_path)
    train_model(CONFIG, recipe(), data, tmp_path / "run", watchers=[lambda line: line["step"] == 4])

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(WriteError, match="disk is full; the checkpoint before it is"):
        patch.setattr("os.fsync", full)
        train_model(CONFIG, recipe(), data, tmp_path / "run")
    progress = checkpoint.load(tmp_path / "run" / "state.pt")
    assert progress is not None and progress.step == 5


def test_mup_groups() -> None:
    """Twice the base width: matrices learn with half the rate and begin smaller; embeddings by their rule."""
    matrix, table = "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"
    assert OPTIMIZER.width_ratio(CONFIG) == 2
    assert rate_scale(CONFIG, OPTIMIZER, matrix, 2) == 0.5 and rate_scale(CONFIG, OPTIMIZER, table, 2) == 1
    assert rate_scale(CONFIG, replace(OPTIMIZER, embed_rule="matrix"), table, 2) == 0.5
    assert rate_scale(CONFIG, OPTIMIZER, "model.norm.weight", 1) == 1
    assert initial_std(CONFIG, OPTIMIZER, matrix) == pytest.approx(0.1 / 2**0.5)
    assert initial_std(CONFIG, OPTIMIZER, table) == 0.1
    standard = Optimizer(parametrization="standard")
    assert rate_scale(CONFIG, standard, matrix, 2) == 1 and initial_std(CONFIG, standard, matrix) == 0.02
    parameters = initial_parameters(CONFIG, OPTIMIZER)
    assert parameters[matrix].std().item() == pytest.approx(0.1 / 2**0.5, rel=0.1)


def test_schedules() -> None:
    linear = WSD(peak=1.0, warmup=0, total=10, decay=10, floor=0.0, kind="linear")
    assert [linear.rate(step) for step in range(10)] == pytest.approx([0.9 - 0.1 * step for step in range(10)])
    root = WSD(peak=1.0, warmup=0, total=4, decay=4, floor=0.0, kind="sqrt")
    assert [root.rate(step) for step in range(4)] == pytest.approx([0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0.0])
    cosine = Cosine(peak=1.0, warmup=2, total=12, floor=0.1)
    assert cosine.rate(1) == 1.0 and cosine.rate(6) == pytest.approx(0.55) and cosine.rate(11) == pytest.approx(0.1)
    law = step_law(214_663_680, 100_000_000_000, warmup=10, total=100)
    assert law.peak == pytest.approx(4.85e-3, rel=0.01) and law.rate(99) == pytest.approx(1e-5)
    assert round(step_law_batch(20_000_000_000) / 4096) == 108  # the paper's table: 108 sequences of 4,096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": Optimizer(base_width=64)}, "set dim_model_base"),
        ({"batch": BatchShape(sequence=32, rows=4000)}, "a batch needs 4000"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        train_model(CONFIG, recipe(**change), counting_shard(tmp_path), tmp_path / "run")


def test_values_are_checked() -> None:
    for make, message in (
        (lambda: recipe(precision="fp4"), "precision 'fp4'"),
        (lambda: recipe(clip=0), "clip 0"),
        (lambda: recipe(mtp=-1), "mtp -1"),
        (lambda: recipe(keep_every=0), "keep_every 0"),
        (lambda: BatchShape(rows=2, parts=3), "2 rows can't be run in 3 parts"),
        (lambda: Optimizer(parametrization="other"), "choose mup or standard"),
        (lambda: Optimizer(embed_rule="other"), "choose vector or matrix"),
        (lambda: WSD(peak=1, warmup=0, total=1, decay=0, kind="other"), "choose one of exponential, linear, sqrt"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            make()


def test_other_architectures_and_vocabularies_are_named(tmp_path: Path) -> None:
    data = counting_shard(tmp_path)
    train_model(CONFIG, recipe(6), data, tmp_path / "run")
    wider = replace(CONFIG, intermediate_size=80)
    with pytest.raises(FormatError, match=r"another architecture: .*gate_proj.weight has shape \[64, 32\], \[80, 32\]"):
        train_model(wider, recipe(6), data, tmp_path / "run")
    with pytest.raises(FormatError, match="another architecture: it has model.layers.1"):
        train_model(replace(CONFIG, num_hidden_layers=1), recipe(6), data, tmp_path / "run")
    with pytest.raises(FormatError, match=r"another architecture: its scale_emb is 12, 6 was expected"):
        train_model(replace(CONFIG, scale_emb=6.0), recipe(8), data, tmp_path / "run")
    with pytest.raises(FormatError, match="trained on vocabulary v, the shards have u"):
        train_model(CONFIG, recipe(8), counting_shard(tmp_path, vocabulary="u"), tmp_path / "run")
    with pytest.raises(FormatError, match="vocabulary has 100 tokens, the model's 64"):
        train_model(CONFIG, recipe(), counting_shard(tmp_path, 40, 100, "w"), tmp_path / "new")
    with pytest.raises(FormatError, match="trained on vocabulary v, the shards have w"):
        evaluate_loss(tmp_path / "run", tmp_path / "w.shard", sequence=32)
    (tmp_path / "run" / "state.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(FormatError, match="not a training checkpoint, or damaged"):
        load_checkpoint(tmp_path / "run")
