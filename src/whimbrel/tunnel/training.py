"""The one place where the tunnel meets the trainer: a Trial becomes a model and a recipe, and its run an Outcome."""

import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whimbrel.errors import InvalidParameter, MissingExtra, TrainingDiverged
from whimbrel.models.config import ModelConfig
from whimbrel.tunnel.trial import DIVERGED, DONE, STOPPED, Bars, Outcome, Trial, missed


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRunner:
    """What all runs of a sweep share; called with a trial, trains it. The folder of a finished run is removed."""

    corpus: Path
    """folder with train.shard and held_out.shard"""
    work: Path
    """folder of the runs while they run: one that was interrupted goes on from its last checkpoint"""
    layers: int = 4
    head_dim: int = 32
    feed_forward: float = 2.5
    """inner width of the SwiGLU over the hidden size"""
    sequence: int = 128
    base_width: int = 64
    """mup: the width at which rates are what they say"""
    warmup: float = 0.1
    decay: float = 0.2
    """shares of the steps, of WSD with exponential decay"""
    schedule: str = "wsd"
    """wsd, or steplaw: a cosine down to 1e-5"""
    precision: str = "fp32"
    threads: int = 1
    device: str = "cpu"
    """cpu or cuda; a ledger may hold runs of both, whose last digits differ"""
    keep: bool = False
    """keep the folder with the last checkpoint"""

    def recipe(self) -> dict[str, Any]:
        """What a ledger notes: everything but folders, threads and device, and the data's fingerprint."""
        from whimbrel.formats.shards import ShardReader

        header = ShardReader(self.corpus / "train.shard").header
        here = ("corpus", "work", "threads", "device", "keep")
        plain = {key: value for key, value in asdict(self).items() if key not in here}
        return {**plain, "vocabulary": header.vocabulary, "tokens": header.tokens}

    def config(self, trial: Trial, vocab_size: int) -> ModelConfig:
        """Llama-like layers of the trial's width; with MiniCPM's scalings for mup. Raises InvalidParameter."""
        from whimbrel.train.parametrization import mup_config

        if trial.width % self.head_dim:
            raise InvalidParameter(f"width {trial.width} is no multiple of the head size {self.head_dim}")
        plain = ModelConfig(
            model_type="llama",
            vocab_size=vocab_size,
            hidden_size=trial.width,
            intermediate_size=round(self.feed_forward * trial.width),
            num_hidden_layers=self.layers,
            num_attention_heads=trial.width // self.head_dim,
            num_key_value_heads=trial.width // self.head_dim,
            head_dim=self.head_dim,
            rms_norm_eps=1e-5,
            max_position_embeddings=self.sequence,
        )
        return mup_config(plain, self.base_width) if trial.parametrization == "mup" else plain

    def train_recipe(self, trial: Trial) -> Any:
        """The trainer's Recipe of a trial. Raises InvalidParameter where the step has no whole number of rows."""
        from whimbrel.train.parametrization import Optimizer
        from whimbrel.train.recipe import BatchShape, Recipe

        if trial.tokens_per_step % self.sequence:
            raise InvalidParameter(
                f"tokens_per_step {trial.tokens_per_step} is no multiple of the sequence length {self.sequence}"
            )
        return Recipe(
            schedule=self._schedule(trial),
            optimizer=Optimizer(parametrization=trial.parametrization, base_width=self.base_width),
            batch=BatchShape(sequence=self.sequence, rows=trial.tokens_per_step // self.sequence),
            precision=self.precision,
            device=self.device,
            seed=trial.seed,
            log_every=max(1, trial.steps // 50),
            save_every=max(1, trial.steps // 4),
        )

    def __call__(self, trial: Trial, bars: Bars = ()) -> Outcome:
        """Train, measure the held-out loss, say what came of it."""
        try:
            import torch

            from whimbrel.train.pretrain import read_curve, train_model
        except ImportError:
            raise MissingExtra("training needs torch: pip install 'whimbrel[torch]'") from None
        from whimbrel.formats.shards import ShardReader

        torch.set_num_threads(self.threads)
        started = time.perf_counter()
        watch = _Watch(bars)
        folder = self.work / trial.key
        train = ShardReader(self.corpus / "train.shard")
        held_out = ShardReader(self.corpus / "held_out.shard")
        config = self.config(trial, train.header.vocab_size)
        size = body_parameters(config)
        try:
            result = train_model(
                config, self.train_recipe(trial), [train], folder, held_out=[held_out], watchers=[watch]
            )
            status = DONE if watch.reason is None else STOPPED
            loss, reason, tokens = result.held_out_loss, watch.reason or "", result.tokens
        except TrainingDiverged as error:
            status, loss, reason, tokens = DIVERGED, None, str(error), watch.step * trial.tokens_per_step
        if loss is not None and not math.isfinite(loss):
            status, loss, reason = DIVERGED, None, "the held-out loss is not finite"
        curve = read_curve(folder)  # also of what ran before an interruption
        if not self.keep:
            shutil.rmtree(folder, ignore_errors=True)
        return Outcome(
            status=status,
            loss=loss if status == DONE else None,
            curve=curve,
            parameters=size,
            tokens=tokens,
            seconds=round(time.perf_counter() - started, 2),
            reason=reason,
        )

    def _schedule(self, trial: Trial) -> Any:
        from whimbrel.train.schedule import WSD, Cosine

        warmup = round(self.warmup * trial.steps)
        if self.schedule == "steplaw":
            return Cosine(peak=trial.rate, warmup=warmup, total=trial.steps, floor=min(1.0, 1e-5 / trial.rate))
        if self.schedule != "wsd":
            raise InvalidParameter(f"schedule {self.schedule!r} is unknown; choose wsd or steplaw")
        return WSD(peak=trial.rate, warmup=warmup, total=trial.steps, decay=round(self.decay * trial.steps))


class _Watch:
    """Looks at each logged line of a run; remembers the curve and why the run should end."""

    def __init__(self, bars: Bars) -> None:
        self.bars, self.curve, self.step = bars, list[tuple[int, float]](), 0
        self.reason: str | None = None

    def __call__(self, line: Any) -> bool:
        before, self.step = self.step, int(line["step"])
        if "skipped" not in line:
            self.curve.append((self.step, float(line["loss"])))
        recent = [loss for _, loss in self.curve[-3:]]
        if recent and self.reason is None:
            self.reason = missed(self.bars, self.step, sum(recent) / len(recent), before)
        return self.reason is not None


def body_parameters(config: ModelConfig) -> int:
    """Parameters without embeddings and output head."""
    ends = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    return config.num_parameters() - ends
