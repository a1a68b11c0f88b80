"""The system in miniature, on two cores within the hour: each claim beside what was measured.

    python recipes/miniature_cpu.py /tmp/miniature            # goes on where it was stopped
    python recipes/miniature_cpu.py /tmp/miniature --stages data,stable,cosine,decays,report

A model of MiniCPM4's architecture (5.0 million parameters, muP) and a BPE of its own are trained on presidents' speeches
(``miniature_text``). Stages so far: the stable part and its decay, a cosine of the same length, decays from earlier stable
checkpoints. The long context, multi-token prediction and the supervised task are still to come.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from miniature_text import fetch

from whimbrel import hardware
from whimbrel.models.config import ModelConfig
from whimbrel.train.parametrization import Optimizer, mup_config
from whimbrel.train.pretrain import TrainResult, train_model
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.schedule import WSD, Cosine, Schedule
from whimbrel.tunnel.corpus import prepare

VOCAB_SIZE = 4096
SEQUENCE = 512
PEAK = 1e-2
"""MiniCPM's learning rate at its base width, 256, which is this model's width"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How long the stages are, in steps of ``rows`` x 512 tokens."""

    rows: int = 8
    steps: int = 900
    warmup: int = 40
    earlier: tuple[int, ...] = (300, 500, 700)
    """runs that end about here, by decays of a tenth of their tokens from the one stable run"""
    keep_every: int = 50
    """steps between the stable run's checkpoints"""

    @classmethod
    def of(cls, steps: int) -> "Size":
        """The same in proportion."""
        return cls(steps=steps, warmup=max(1, steps // 22), earlier=(steps // 2,), keep_every=max(1, steps // 18))

    @property
    def decay(self) -> int:
        """A tenth."""
        return max(1, self.steps // 10)


def model() -> ModelConfig:
    """5.0 million parameters; grouped keys and values as MiniCPM4 has them."""
    plain = ModelConfig(
        model_type="llama",
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-5,
        max_position_embeddings=SEQUENCE,
        tie_word_embeddings=True,
    )
    return mup_config(plain, base_width=256)


class Miniature:
    """The stages of one run; each leaves ``results/NAME.json``, and is skipped where that is."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size = folder, size
        self.corpus = folder / "corpus"
        self.stages: dict[str, Callable[[], dict[str, object]]] = {
            "data": self.data,
            "stable": self.stable,
            "cosine": self.cosine,
            "decays": self.decays,
            "report": self.report,
        }

    def run(self, wanted: list[str]) -> None:
        """The wanted stages, in order."""
        for name in wanted:
            path = self.folder / "results" / f"{name}.json"
            if path.exists() and name != "report":
                continue
            print(f"{name}: begun", flush=True)
            found = self.stages[name]()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {found}", flush=True)

    def data(self) -> dict[str, object]:
        """Speeches, their BPE, and shards; seven speeches are held out."""
        prepare(fetch(self.folder / "text"), self.corpus, vocab_size=VOCAB_SIZE)
        return {"train_bytes": (self.corpus / "train.shard").stat().st_size}

    def stable(self) -> dict[str, object]:
        """Warmup, a constant rate, and the last tenth decays. Checkpoints where the earlier decays begin are kept."""
        size = self.size
        schedule = WSD(peak=PEAK, warmup=size.warmup, total=size.steps, decay=size.decay)
        return self._train("stable", schedule, keep_every=size.keep_every)

    def cosine(self) -> dict[str, object]:
        """The same steps under a cosine."""
        return self._train("cosine", Cosine(peak=PEAK, warmup=self.size.warmup, total=self.size.steps))

    def decays(self) -> dict[str, object]:
        """What the stable run would have come to, had it ended earlier."""
        found: dict[str, object] = {}
        for total in self.size.earlier:
            decay = max(1, total // 10)
            start = max(step for step in range(0, total - decay + 1, self.size.keep_every))
            schedule = WSD(peak=PEAK, warmup=self.size.warmup, total=start + decay, decay=decay)
            kept = self.folder / "stable" / f"step-{start:08d}.pt"
            found[str(start + decay)] = self._train(f"decay-{total}", schedule, start=kept)
        return found

    def report(self) -> dict[str, object]:
        """``report.md`` and a picture of the losses."""
        results = {path.stem: json.loads(path.read_text()) for path in (self.folder / "results").glob("*.json")}
        stable, cosine = results["stable"]["held_out_loss"], results["cosine"]["held_out_loss"]
        rows = [
            "| run | tokens | held-out loss, nats per token |",
            "|---|---|---|",
            f"| WSD, a decay of 10% | {results['stable']['tokens']:,} | {stable:.4f} |",
            f"| cosine of the same length | {results['cosine']['tokens']:,} | {cosine:.4f} ({stable / cosine - 1:+.2%}) |",
            *(
                f"| decay from the stable run, at step {step} | {run['tokens']:,} | {run['held_out_loss']:.4f} |"
                for step, run in results.get("decays", {}).items()
            ),
        ]
        (self.folder / "report.md").write_text("# The miniature\n\n" + "\n".join(rows) + "\n", encoding="utf-8")
        _plot(self.folder, [name for name in ("stable", "cosine") if (self.folder / name).exists()])
        return {"report": str(self.folder / "report.md")}

    def _train(
        self, name: str, schedule: Schedule, *, keep_every: int | None = None, start: Path | None = None
    ) -> dict[str, object]:
        recipe = Recipe(
            schedule=schedule,
            optimizer=Optimizer(base_width=256),
            batch=BatchShape(sequence=SEQUENCE, rows=self.size.rows),
            save_every=50,
            keep_every=keep_every,
            start=start,
        )
        result = train_model(
            model(), recipe, self.corpus / "train.shard", self.folder / name, held_out=self.corpus / "held_out.shard"
        )
        return _told(result)


def _told(result: TrainResult) -> dict[str, object]:
    return {
        "loss": result.loss,
        "held_out_loss": result.held_out_loss,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(result.seconds),
    }


def _plot(folder: Path, runs: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from whimbrel.train.pretrain import read_curve

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in runs:
        steps, losses = zip(*read_curve(folder / name), strict=True)
        axes.plot(steps, losses, label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="training loss, nats per token", yscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "losses.png", dpi=120)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", default="data,stable,cosine,decays,report")
    parser.add_argument("--steps", type=int, help="of the long runs, to try it out; 900 within the hour")
    parser.add_argument("--threads", type=int, default=hardware.threads(), help="fewer where others use the cores")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    size = Size() if options.steps is None else Size.of(options.steps)
    Miniature(options.folder, size).run(options.stages.split(","))


if __name__ == "__main__":
    main()
