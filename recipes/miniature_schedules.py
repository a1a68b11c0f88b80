"""WSD beside a cosine: at which constant rate, and by which decay, does a decay of a tenth of the tokens end as low?

    python recipes/miniature_cpu.py /tmp/miniature --stages data
    python recipes/miniature_schedules.py /tmp/schedules --corpus /tmp/miniature/corpus --device cuda --workers 8

The miniature's model and steps, a cosine from each peak, and a stable run at each constant rate with every kind of decay from its
checkpoint. Each run is a line of ``FOLDER/runs.jsonl`` and is not repeated; the table at the end has the best of each kind first.
"""

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from miniature import BASE_WIDTH, Size

from whimbrel.train.parametrization import Optimizer
from whimbrel.train.pretrain import train_model
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.schedule import WSD, Cosine, Schedule

RATES = (2.5e-3, 3.5e-3, 5e-3, 7e-3, 1e-2, 1.4e-2, 2e-2)
DECAYS = (("exponential", 0.05), ("linear", 0.0), ("sqrt", 0.0))
"""kinds, and the share of the rate that they end at"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A stable run and its decays, or a cosine, at one rate with one seed."""

    cosine: bool
    rate: float
    seed: int
    steps: int


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", type=Path, required=True, help="of the miniature")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time, each with one thread")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[Size().steps])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    ledger = options.folder / "runs.jsonl"
    ledger.touch()
    done = [json.loads(line) for line in ledger.read_text().splitlines()]
    jobs = [
        Job(cosine=cosine, rate=rate, seed=seed, steps=steps)
        for steps in options.steps
        for seed in options.seeds
        for rate in options.rates
        for cosine in (False, True)
    ]
    left = [job for job in jobs if not any(asdict(job).items() <= line.items() for line in done)]
    work = partial(train, folder=options.folder, corpus=options.corpus, device=options.device)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for lines in pool.imap_unordered(work, left):
            with ledger.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            done += lines
            print(*lines, sep="\n", flush=True)
    print(table(done))


def train(job: Job, *, folder: Path, corpus: Path, device: str) -> list[dict[str, object]]:
    """The lines of one job."""
    torch.set_num_threads(1)
    lines: list[dict[str, object]] = []
    size, name = Size(), f"{'cosine' if job.cosine else 'wsd'}-{job.rate:g}-{job.seed}-{job.steps}"
    for kind, schedule in schedules(job):
        stable = folder / name / f"step-{job.steps - job.steps // 10:08d}.pt"
        recipe = Recipe(
            schedule=schedule,
            optimizer=Optimizer(base_width=BASE_WIDTH),
            batch=BatchShape(sequence=size.sequence, rows=size.rows),
            device=device,
            seed=job.seed,
            save_every=job.steps,
            start=stable if stable.exists() else None,
        )
        run = folder / (name if not lines else f"{name}-{kind}")
        result = train_model(size.model(), recipe, corpus / "train.shard", run, held_out=corpus / "held_out.shard")
        lines.append(asdict(job) | {"decay": kind, "loss": result.held_out_loss, "seconds": round(result.seconds, 1)})
    return lines


def schedules(job: Job) -> Iterator[tuple[str, Schedule]]:
    """By name; the first of WSD's leaves the checkpoint that the others start from."""
    warmup = max(1, job.steps // 22)
    if job.cosine:
        yield "cosine", Cosine(peak=job.rate, warmup=warmup, total=job.steps)
        return
    for kind, floor in DECAYS:
        yield kind, WSD(
            peak=job.rate, warmup=warmup, total=job.steps, decay=job.steps // 10, kind=kind, floor=floor
        )  # fmt: skip


def table(lines: list[dict[str, object]]) -> str:
    """Held-out losses by rate, a column for each schedule; of several seeds the mean."""
    kinds = ["cosine", *(kind for kind, _ in DECAYS)]
    rows = []
    for steps, rate in sorted({(line["steps"], line["rate"]) for line in lines}):
        cells = []
        for kind in kinds:
            losses = [
                float(str(line["loss"]))
                for line in lines
                if (line["steps"], line["rate"], line["decay"]) == (steps, rate, kind)
            ]
            cells.append(f"{sum(losses) / len(losses):.4f}" if losses else "")
        rows.append(f"| {steps} | {rate:g} | {' | '.join(cells)} |")
    return "\n".join([f"| steps | rate | {' | '.join(kinds)} |", "|---|---|" + "---|" * len(kinds), *rows])


if __name__ == "__main__":
    main()
