"""block_scores: the cases of ``select_blocks``, which computes the same and then chooses."""

from whimbrel.ops.select_blocks.cases import CASES, SelectCase

__all__ = ["CASES", "SelectCase"]
