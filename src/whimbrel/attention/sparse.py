"""SparseConfig: the constants of InfLLM v2, trainable sparse attention without new parameters.

Keys are averaged over *semantic kernels* of 32 tokens, 16 apart; a query scores them, the scores are pooled to blocks of
64 tokens, and the best blocks, the first one and the latest ones are attended. Source: MiniCPM4 technical report,
section 2; InfLLM-V2 (2025), section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from whimbrel.errors import FormatError

LSES = ("coarse", "exact")
"""How the softmax over semantic kernels is normalised: over four-times coarser kernels, or over the kernels themselves."""

ESTIMATORS = ("kernels", "signs")
"""What a query is compared with: the averages that models are trained for, or a bit for each channel of every key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseConfig:
    """Which keys a query sees once its sequence is long. Names follow ``sparse_config`` of MiniCPM4's config.json."""

    kernel_size: int = 32
    """tokens under one semantic kernel"""
    kernel_stride: int = 16
    """tokens from one kernel to the next"""
    init_blocks: int = 1
    """blocks at the start that are always attended"""
    block_size: int = 64
    window_size: int = 2048
    """tokens before the query's own block that are always attended"""
    topk: int = 64
    """blocks beside the window: the first ones and those that are chosen"""
    dense_len: int = 8192
    """queries that see fewer keys than this attend to all of them; -1: none does"""
    use_nope: bool = False
    """choose by queries and keys before their rotation"""
    lse: str = "coarse"
    estimator: str = "kernels"
    """by what blocks are chosen. "signs" finds more in models that were never trained for this, and reads more to do so:
    see ``ops/block_scores``; the reference ops and training have it, native ops do not"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(field.default) is int and (not isinstance(value, int) or isinstance(value, bool)):
                raise FormatError(f"sparse_config: {field.name} is {value!r}, a whole number was expected")
        if min(self.kernel_size, self.kernel_stride, self.block_size, self.topk) < 1 or self.init_blocks < 0:
            raise FormatError("sparse_config: kernel, stride, block and topk are at least 1, init_blocks at least 0")
        if self.kernel_size != 2 * self.kernel_stride or self.block_size % self.kernel_stride:
            raise FormatError(
                f"sparse_config: kernels of {self.kernel_size} tokens, {self.kernel_stride} apart, in blocks of "
                f"{self.block_size}: a kernel spans two strides, and a block a whole number of them"
            )
        if self.window_size < 0 or self.window_size % self.block_size:
            raise FormatError(f"sparse_config: window_size {self.window_size} is no multiple of {self.block_size}")
        if self.topk < self.init_blocks + 1:
            raise FormatError(f"sparse_config: topk {self.topk} must exceed init_blocks {self.init_blocks}")
        if self.lse not in LSES:
            raise FormatError(f"sparse_config: lse {self.lse!r} is unknown; there are {', '.join(LSES)}")
        self._check_estimator()

    def _check_estimator(self) -> None:
        if self.estimator not in ESTIMATORS:
            known = ", ".join(ESTIMATORS)
            raise FormatError(f"sparse_config: estimator {self.estimator!r} is unknown; there are {known}")
        if self.estimator == "signs" and self.lse != "exact":
            raise FormatError("sparse_config: estimator 'signs' has no coarse normaliser; set lse to 'exact'")
        if self.estimator == "signs" and self.block_size % self.kernel_size:
            raise FormatError(
                f"sparse_config: estimator 'signs' needs blocks of whole kernels; {self.block_size} tokens are no "
                f"multiple of {self.kernel_size}"
            )

    @property
    def local_blocks(self) -> int:
        """Blocks of the window; the query's own comes on top."""
        return self.window_size // self.block_size

    @property
    def num_blocks(self) -> int:
        """The most blocks that a query attends: chosen, first, window and its own."""
        return self.topk + self.local_blocks

    @staticmethod
    def from_hf(data: Mapping[str, Any]) -> "SparseConfig":
        """Read the ``sparse_config`` of a config.json. Raises ``FormatError`` for unknown or impossible values."""
        known = {field.name for field in fields(SparseConfig)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise FormatError(f"sparse_config: {', '.join(unknown)} is unknown; there are {', '.join(sorted(known))}")
        return SparseConfig(**data)

    def to_hf(self) -> dict[str, Any]:
        """What ``from_hf`` reads."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
