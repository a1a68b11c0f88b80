"""semantic_kernels: windows that end, begin and stop short of a step; all head sizes; keys turned back."""

from dataclasses import dataclass
from typing import Any

from whimbrel.ops.select_blocks.cases import SelectCase


@dataclass(frozen=True, slots=True)
class SemanticKernelsCase:
    """``sequences`` of (tokens in the cache, tokens of this step)."""

    sequences: tuple[tuple[int, int], ...]
    groups: int
    dim: int
    use_nope: bool = False

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        sequences = "_".join(f"{past}+{new}" for past, new in self.sequences)
        return f"S{sequences}-G{self.groups}-D{self.dim}{'-nope' * self.use_nope}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op but cache and layer, and the ``keys`` of every sequence."""
        case = SelectCase(self.sequences, self.groups, self.groups, self.dim, use_nope=self.use_nope)
        return {key: value for key, value in case.arrays(seed).items() if key not in ("q", "scale")}


CASES = (
    *(SemanticKernelsCase(((0, 200), (31, 1), (47, 1), (46, 1)), 2, dim) for dim in (64, 80, 96, 128)),
    *(SemanticKernelsCase(((0, new),), 3, 64) for new in (1, 15, 31, 32, 47, 48, 63, 64, 65, 127, 128, 300)),
    *(SemanticKernelsCase(((past, new),), 1, 64) for past, new in ((16, 16), (31, 17), (79, 1), (95, 34), (130, 2))),
    SemanticKernelsCase(((0, 130), (70, 60)), 2, 64, use_nope=True),
)
