"""attend: group sizes 1 to 16, all head sizes, prefill, decoding and both at once, splits of 256 keys half full; block
lists of all sorts beside rows without one; trees of drafts."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whimbrel.ops.cases import BLOCK_SIZE, Array, normal, step

LISTS = {
    "own": lambda rng, blocks: blocks[-1:],
    "all": lambda rng, blocks: blocks,
    "ends": lambda rng, blocks: blocks[[0, -1]] if len(blocks) > 1 else blocks,
    "gaps": lambda rng, blocks: blocks[np.append(rng.random(len(blocks) - 1) < 0.5, True)],
    "none": lambda rng, blocks: blocks[:0],
}
"""Which of a row's blocks (ascending, its own last) a list names; none means that the row sees everything."""


@dataclass(frozen=True, slots=True)
class AttendCase:
    """``sequences`` of (tokens in the cache, tokens of this step)."""

    sequences: tuple[tuple[int, int], ...]
    heads: int
    groups: int
    dim: int
    peak: float = 1.0
    """factor on q: large ones make the softmax pick single keys"""
    lists: str = ""
    """a key of ``LISTS``, or ``mixed``: another for each row and head"""
    tree: bool = False
    """the rows of each sequence are a random tree of drafts"""

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        sequences = "_".join(f"{past}+{new}" for past, new in self.sequences)
        marks = f"-{self.lists}" * bool(self.lists) + "-tree" * self.tree
        return f"S{sequences}-H{self.heads}-G{self.groups}-D{self.dim}-peak{self.peak:g}{marks}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op but cache and layer, and what the cache holds: ``keys`` and ``values`` per sequence."""
        rng = np.random.default_rng(seed)
        inputs = step(self.sequences, rng)
        shape = (self.groups, self.dim)
        arrays = {
            "q": normal(rng, len(inputs.positions), self.heads, self.dim) * np.float32(self.peak),
            "scale": self.dim**-0.5,
            "keys": [normal(rng, int(length), *shape) for length in inputs.kv_lengths],
            "values": [normal(rng, int(length), *shape) for length in inputs.kv_lengths],
        }
        if self.tree:
            masks = np.concatenate([random_tree(rng, new) for _, new in self.sequences])
            inputs = replace(inputs, tree_masks=masks)
        blocks = self._blocks(rng, inputs.positions) if self.lists else None
        return arrays | {"inputs": inputs, "blocks": blocks}

    def _blocks(self, rng: np.random.Generator, positions: Array) -> Array:
        lists = np.full((self.groups, len(positions), int(positions.max()) // BLOCK_SIZE + 2), -1, np.int32)
        for group in lists:
            for row, position in zip(group, positions, strict=True):
                kind = rng.choice(list(LISTS)) if self.lists == "mixed" else self.lists
                chosen = LISTS[kind](rng, np.arange(position // BLOCK_SIZE + 1))
                row[: len(chosen)] = chosen
        return lists


def random_tree(rng: np.random.Generator, rows: int) -> Array:
    """uint64 [rows]: each row sees itself and what its parent sees; the parent is an earlier row, or there is none."""
    masks = np.zeros(rows, np.uint64)
    for row in range(rows):
        parent = int(rng.integers(-1, row)) if row else -1
        masks[row] = (masks[parent] if parent >= 0 else np.uint64(0)) | np.uint64(1 << row)
    return masks


CASES = (
    *(AttendCase(((0, 37), (70, 1), (5, 3)), 2 * share, 2, 64) for share in (1, 3, 8, 16)),
    *(AttendCase(((0, 65), (300, 2)), 6, 2, dim) for dim in (64, 80, 96, 128)),
    *(AttendCase(((past, 1),), 9, 3, 64) for past in (0, 1, 63, 64, 255, 256, 257, 600)),
    *(AttendCase(((0, new),), 3, 1, 64) for new in (1, 2, 3, 64, 130, 300)),
    AttendCase(((200, 150), (0, 1), (511, 1), (64, 64)), 4, 2, 64),
    AttendCase(((500, 5),), 6, 2, 64, peak=30.0),
    AttendCase(((40, 5), (513, 1)), 32, 2, 128),
    *(AttendCase(((0, 37), (300, 1), (640, 20)), 2 * share, 2, 64, lists="mixed") for share in (1, 3, 8, 16)),
    *(AttendCase(((600, 1), (250, 30)), 6, 2, dim, lists="gaps") for dim in (64, 80, 96, 128)),
    *(AttendCase(((700, 1),), 9, 3, 64, lists=lists) for lists in LISTS),
    AttendCase(((300, 1), (364, 1), (428, 1), (63, 1)), 8, 4, 64, lists="mixed"),
    AttendCase(((500, 70),), 3, 1, 64, lists="mixed"),
    AttendCase(((400, 200), (130, 64)), 4, 2, 64, lists="gaps"),
    AttendCase(((1500, 33),), 1, 1, 64, lists="gaps"),
    AttendCase(((500, 5),), 6, 2, 64, peak=30.0, lists="ends"),
    AttendCase(((300, 20), (100, 1), (0, 5)), 6, 2, 64, tree=True),
    AttendCase(((120, 20), (62, 64), (250, 12)), 6, 2, 64, lists="mixed", tree=True),
    AttendCase(((700, 8),), 16, 1, 128, lists="gaps", tree=True),
)
