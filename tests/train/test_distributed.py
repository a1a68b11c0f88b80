"""Two processes over gloo are one: parts, MTP, stops and starts, broken batches, and each other's checkpoints."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_model import MUP_CONFIG as CONFIG
from tiny_model import counting_shard

from whimbrel.errors import InvalidParameter
from whimbrel.train import pretrain
from whimbrel.train.batches import Batch, Batches
from whimbrel.train.distributed import share
from whimbrel.train.parametrization import Optimizer
from whimbrel.train.pretrain import load_checkpoint, read_curve, train_model
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.schedule import WSD

RECIPE = Recipe(
    schedule=WSD(peak=0.01, warmup=2, total=12, decay=4),
    optimizer=Optimizer(base_width=16),
    batch=BatchShape(sequence=32, rows=8),
    mtp=0.3,
    log_every=1,
    save_every=3,
)
HALF = replace(RECIPE, schedule=WSD(peak=0.01, warmup=2, total=6, decay=0))
"""The same first six steps"""
SHARD = "v.shard"
"""What ``counting_shard`` writes; processes read one and the same."""
BROKEN = 3
"""The step whose loss is not a number, where a run is to have one"""


class Breaks(pretrain.Student):
    """A student whose losses of one step are not numbers in one of the processes."""

    broken_rank = 0
    calls = 0

    def part(self, batch: Batch, learned: int) -> dict[str, Any]:
        losses = super().part(batch, learned)
        Breaks.calls += 1
        rank = int(os.environ.get("RANK", "0"))
        broken = rank == self.broken_rank and Breaks.calls == BROKEN + 1
        return {name: value * float("nan") for name, value in losses.items()} if broken else losses


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runs of two processes, in one start of torchrun, beside those of one process."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = counting_shard(folder)
    train_model(CONFIG, RECIPE, data, folder / "one")
    for name in ("one then two", "start"):
        train_model(CONFIG, replace(HALF, keep_every=6), data, folder / name)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, __file__, str(folder)], check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    yield folder
    torch.set_num_threads(threads)


def on_gpus(folder: Path) -> None:
    """One process of as many as there are GPUs, at most two."""
    from torch import distributed as dist

    from whimbrel.train import distributed

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    try:
        distributed.train_sharded(CONFIG, replace(HALF, device="cuda"), folder / SHARD, folder / "cuda")
        distributed.train_sharded(CONFIG, replace(RECIPE, device="cuda"), folder / SHARD, folder / "cuda")
    finally:
        dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch finds none")
def test_gpus_over_nccl_are_one_process(tmp_path: Path) -> None:
    """Stopped and resumed, and then what they wrote is what the CPU goes on with."""
    count = min(2, torch.cuda.device_count())
    data = counting_shard(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [*command, __file__, str(tmp_path), "cuda"], check=False, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    wanted = train_model(CONFIG, RECIPE, data, tmp_path / "one")
    assert losses(tmp_path / "cuda") == pytest.approx([loss for _, loss in wanted.curve], rel=1e-3)
    assert train_model(CONFIG, RECIPE, data, tmp_path / "cuda").steps == 12


def two_processes(folder: Path) -> None:
    """One of them."""
    from torch import distributed as dist

    from whimbrel.train import distributed

    data = folder / SHARD
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        for name in ("one then two", "two", "stopped"):
            distributed.train_sharded(CONFIG, HALF if name == "stopped" else RECIPE, data, folder / name)
        distributed.train_sharded(CONFIG, HALF, data, folder / "two then one")
        distributed.train_sharded(CONFIG, RECIPE, data, folder / "stopped")
        parts = replace(RECIPE, batch=replace(RECIPE.batch, parts=2))
        distributed.train_sharded(CONFIG, parts, data, folder / "parts")
        start = replace(RECIPE, start=folder / "start" / "step-00000006.pt")
        distributed.train_sharded(CONFIG, start, data, folder / "started")
        nothing = replace(HALF, start=folder / "start" / "step-00000006.pt")
        distributed.train_sharded(CONFIG, nothing, data, folder / "nothing")
        distributed.Student, Breaks.broken_rank = Breaks, 1  # type: ignore[misc]
        distributed.train_sharded(CONFIG, RECIPE, data, folder / "broken")
    finally:
        dist.destroy_process_group()


def losses(folder: Path) -> list[float]:
    return [loss for _, loss in read_curve(folder)]


def test_stopped_and_resumed_is_undisturbed(runs: Path) -> None:
    assert losses(runs / "stopped") == losses(runs / "two")
    ours, theirs = (load_checkpoint(runs / name)[1] for name in ("stopped", "two"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_parts_give_the_losses_of_the_whole(runs: Path) -> None:
    assert losses(runs / "two") == pytest.approx(losses(runs / "one"), rel=1e-4)
    assert losses(runs / "parts") == pytest.approx(losses(runs / "two"), rel=1e-4)


def test_each_goes_on_from_the_others_checkpoint(runs: Path) -> None:
    wanted = losses(runs / "one")
    assert losses(runs / "one then two") == pytest.approx(wanted, rel=1e-4)
    train_model(CONFIG, RECIPE, runs / SHARD, runs / "two then one")
    assert losses(runs / "two then one") == pytest.approx(wanted, rel=1e-4)
    assert losses(runs / "started") == pytest.approx(wanted[6:], rel=1e-4)
    kept, copied = (load_checkpoint(runs / name)[1] for name in ("start/step-00000006.pt", "nothing"))
    assert all(torch.equal(kept[name], copied[name]) for name in kept)
    state = torch.load(runs / "two" / "state.pt", weights_only=True)
    other = torch.load(runs / "one" / "state.pt", weights_only=True)
    assert state["step"] == 12 and set(state["parameters"]) == set(other["parameters"])
    for index, values in other["optimizer"]["state"].items():
        found = state["optimizer"]["state"][index]
        assert {key: value.shape for key, value in found.items()} == {key: x.shape for key, x in values.items()}
    assert (runs / "two" / "step-00000008.pt").exists()  # the end of the stable part


def test_a_broken_batch_is_skipped_by_all(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a number in the second process alone: both leave the weights as they were, as one process would."""
    monkeypatch.setattr(pretrain, "Student", Breaks)
    Breaks.calls = 0
    train_model(CONFIG, RECIPE, runs / SHARD, runs / "broken alone")
    assert len(losses(runs / "broken")) == 11
    assert losses(runs / "broken") == pytest.approx(losses(runs / "broken alone"), rel=1e-4)
    line = (runs / "broken" / "log.jsonl").read_text().splitlines()[BROKEN]
    assert '"skipped": "the loss is nan"' in line


def test_pieces_are_shared(tmp_path: Path) -> None:
    """Equally many parts in each process, fewer than asked where pieces are few, all pieces once; too few are named."""
    batch = Batches(counting_shard(tmp_path), sequence=32, rows=4).batch(0)
    shares = [share(batch, rank, 2, 2, 0) for rank in range(2)]
    assert [len(parts) for parts in shares] == [2, 2]
    tokens = np.concatenate([part.token_ids for parts in shares for part in parts])
    assert np.array_equal(tokens, batch.token_ids)
    pieces = len(batch.cu_seqlens) - 1
    assert {len(share(batch, rank, 2, pieces, 0)) for rank in range(2)} <= set(range(1, pieces // 2 + 1))
    with pytest.raises(InvalidParameter, match=rf"step 5: {pieces} pieces can't be shared by {pieces + 1} processes"):
        share(batch, 0, pieces + 1, 1, 5)


if __name__ == "__main__":
    (on_gpus if "cuda" in sys.argv[2:] else two_processes)(Path(sys.argv[1]))
