"""Recipe: everything about a training run that is neither the model nor the data."""

from dataclasses import dataclass, field
from pathlib import Path

from whimbrel.errors import InvalidParameter
from whimbrel.train.parametrization import Optimizer
from whimbrel.train.schedule import Schedule
from whimbrel.train.spikes import SpikeRule

PRECISIONS = ("fp32", "bf16", "fp8")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """What one step sees: ``rows`` rows of up to ``sequence`` tokens of packed documents."""

    sequence: int = 512
    rows: int = 16
    parts: int = 1
    """the step's pieces are run in so many parts, whose gradients are added up: less memory, the same step"""
    bounds: tuple[int, ...] = ()
    """lengths of documents that separate classes of which every step sees equally many rows (``long``), ascending and
    below ``sequence``: (4096, 12288, 24576) with 32768 are the paper's four; empty: documents as they come"""

    def __post_init__(self) -> None:
        if min(self.sequence, self.rows, self.parts) < 1:
            raise InvalidParameter(
                f"batch: sequence {self.sequence}, rows {self.rows} and parts {self.parts} must be at least 1"
            )
        classes = (0, *self.bounds, self.sequence)
        if list(classes) != sorted(set(classes)) or self.rows % (len(classes) - 1):
            raise InvalidParameter(
                f"batch: bounds {list(self.bounds)} must ascend from above 0 to below sequence {self.sequence}, and rows "
                f"{self.rows} be a multiple of {len(classes) - 1}, the number of classes"
            )
        if self.parts > self.rows:
            raise InvalidParameter(
                f"batch: {self.rows} rows can't be run in {self.parts} parts; choose at most {self.rows}"
            )

    @property
    def tokens(self) -> int:
        """Of a step, at most; packing leaves a percent or two of them empty."""
        return self.sequence * self.rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train. Everything is checked here; what depends on the model is checked when the run begins."""

    schedule: Schedule
    optimizer: Optimizer = field(default_factory=Optimizer)
    batch: BatchShape = field(default_factory=BatchShape)
    clip: float = 1.0
    """the largest norm of the gradient"""
    precision: str = "fp32"
    """fp32; bf16: products of matrices in bf16 (autocast), weights and sums in fp32; fp8: the layers' projections
    through block-wise FP8 operands, all else in fp32: on Hopper by its tensor cores, elsewhere emulated (slow: to study
    the numbers; ``fp8.fp8_path`` tells which)"""
    device: str = "cpu"
    """cpu or cuda (this process's current one); a run may go on with the other"""
    recompute: bool = False
    """activation checkpointing: layers run again for their gradients; less memory, a third more work"""
    mtp: float = 0.0
    """the weight of the multi-token prediction loss; 0 has no such head (DeepSeek-V3: 0.3, later 0.1)"""
    seed: int = 0
    """of the first weights and of the order of the data"""
    spikes: SpikeRule = field(default_factory=SpikeRule)
    log_every: int = 10
    save_every: int = 200
    keep_every: int | None = None
    """checkpoints at its multiples are kept (``step-*.pt``), and the one at the end of WSD's stable part"""
    keep_last: int | None = None
    """how many of those stay; None: all"""
    start: Path | None = None
    """a checkpoint to go on from, step and optimizer included: a decay from a stable run's ``step-*.pt``"""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidParameter(f"precision {self.precision!r} is unknown; choose {' or '.join(PRECISIONS)}")
        if self.device not in DEVICES:
            raise InvalidParameter(f"device {self.device!r} is unknown; choose {' or '.join(DEVICES)}")
        if self.clip <= 0 or min(self.log_every, self.save_every) < 1:
            raise InvalidParameter(
                f"clip {self.clip} must be above 0, log_every {self.log_every} and save_every {self.save_every} at least 1"
            )
        if not 0 <= self.mtp:
            raise InvalidParameter(f"mtp {self.mtp} is the weight of a loss; 0 or more was expected")
        for name, value in (("keep_every", self.keep_every), ("keep_last", self.keep_last)):
            if value is not None and value < 1:
                raise InvalidParameter(f"{name} {value} must be at least 1, or left out")
