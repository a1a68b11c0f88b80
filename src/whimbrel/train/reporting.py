"""What people see of a run: a progress line, TensorBoard event files, a picture of the loss. Each is a watcher of the log."""

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from whimbrel.errors import MissingExtra
from whimbrel.models.config import ModelConfig
from whimbrel.train.loop import Line
from whimbrel.train.pretrain import read_curve


class ProgressLine:
    """Writes one line for each logged step: loss, rate, tokens per second, MFU, time left."""

    def __init__(self, write: Callable[[str], None], *, total: int, tokens: int, flops: float, peak: float) -> None:
        """``total`` steps of ``tokens`` tokens; ``flops`` per token; ``peak`` of the machine, per second."""
        self._write, self._total, self._tokens = write, total, tokens
        self._flops, self._peak = flops, peak
        self._before: tuple[int, float] | None = None

    def __call__(self, line: Line) -> None:
        """A watcher."""
        step, now = int(line["step"]) + 1, time.perf_counter()
        text = f"step {step}/{self._total}  loss {line['loss']:.4f}  rate {line['rate']:.2e}"
        before = self._before or (step - 1, now - line["seconds"])
        seconds_a_step = (now - before[1]) / max(1, step - before[0])
        speed = self._tokens / seconds_a_step
        left = (self._total - step) * seconds_a_step
        self._write(
            f"{text}  {speed:,.0f} tokens/s  MFU {speed * self._flops / self._peak:.0%}  {duration(left)} left"
            + (f"  SKIPPED: {line['skipped']}" if "skipped" in line else "")
        )
        self._before = step, now


class TensorBoard:
    """Event files in ``folder``; a resumed run continues them, and its repeated steps replace the earlier ones."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        """Needs the extra [train]; raises MissingExtra."""
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
        except ImportError:
            raise MissingExtra("TensorBoard files need tensorboardX: pip install 'whimbrel[train]'") from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)

    def __call__(self, line: Line) -> None:
        """A watcher: every number of the line becomes a scalar."""
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write what is buffered; until then the file may be a minute behind."""
        self._writer.close()


def plot_loss(path: str | Path, *folders: str | Path) -> Path:
    """The loss curves of runs' folders as a PNG. Needs the extra [plots]; raises MissingExtra."""
    figures = _matplotlib()
    figure = figures.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for folder in folders:
        steps, losses = zip(*read_curve(folder), strict=True)
        axes.plot(steps, losses, linewidth=1, label=Path(folder).name)
    axes.set(xlabel="step", ylabel="loss, nats per token")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return Path(path)


def flops_per_token(config: ModelConfig, sequence: int) -> float:
    """Of a training step: 6 for each weight that multiplies, and attention over half the sequence on average."""
    table = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    weights = config.num_parameters() - table
    attention = config.num_hidden_layers * config.num_attention_heads * config.head_dim * sequence
    return 6.0 * (weights + attention)


def matmul_peak(device: str = "cpu", precision: str = "fp32") -> float:
    """Floating-point operations per second of a product of squares here and now: the denominator of MFU.

    In bf16 where a run's products are (``precision`` "bf16" or "fp8").
    """
    size = 1024 if device == "cpu" else 8192
    a = torch.ones(size, size, device=device, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    seconds = []
    for _ in range(6):  # the first one warms up
        started = time.perf_counter()
        torch.mm(a, a)
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _matplotlib() -> ModuleType:
    try:
        from matplotlib import figure
    except ImportError:
        raise MissingExtra(
            "a picture needs matplotlib: pip install 'whimbrel[plots]'; the log has the numbers"
        ) from None
    return figure
