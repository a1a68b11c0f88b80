"""Recalled mass: how much of the attention that the best blocks would hold is in the blocks that were selected.

A text is read, and at some places of it the model goes on writing for a few tokens. For each of those, in every layer
and for every key/value head, the exact attention mass of all blocks of the dense model is compared with the selection's
list (``probe``). The *oracle* takes the same number of blocks by their exact mass: no selection of this kind can hold
more. Init, local and own blocks are given to every query; so ``chosen_recall`` looks at the rest alone, where a
selection shows what it can do.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whimbrel.attention.sparse import SparseConfig
from whimbrel.backends.executor import Executor, Request, SamplingParams
from whimbrel.errors import InvalidParameter
from whimbrel.eval.probe import Observation, Probe

Progress = Callable[[int, int], None]
"""Gets the places that are done, and all places."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recall:
    """Sums of attention mass over queries; each query head of each query token has mass 1."""

    total: float = 0.0
    selected: float = 0.0
    """in the blocks of the list"""
    oracle: float = 0.0
    """in as many blocks of the largest mass"""
    chosen: float = 0.0
    """in those blocks of the list that nothing forced into it"""
    oracle_chosen: float = 0.0
    """in as many of the largest mass, out of those that nothing forces"""

    @property
    def share(self) -> float:
        """Of all attention, what the selection keeps."""
        return _ratio(self.selected, self.total)

    @property
    def oracle_share(self) -> float:
        """Of all attention, what the oracle keeps."""
        return _ratio(self.oracle, self.total)

    @property
    def recall(self) -> float:
        """The selection against the oracle; 1 is the best there is."""
        return _ratio(self.selected, self.oracle)

    @property
    def chosen_recall(self) -> float:
        """The same for the blocks that were free to choose."""
        return _ratio(self.chosen, self.oracle_chosen)

    def __add__(self, other: "Recall") -> "Recall":
        return Recall(
            total=self.total + other.total,
            selected=self.selected + other.selected,
            oracle=self.oracle + other.oracle,
            chosen=self.chosen + other.chosen,
            oracle_chosen=self.oracle_chosen + other.oracle_chosen,
        )

    def to_dict(self) -> dict[str, float]:
        """The four ratios."""
        return {
            "share": self.share,
            "oracle_share": self.oracle_share,
            "recall": self.recall,
            "chosen_recall": self.chosen_recall,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparsity:
    """The result."""

    heads: dict[tuple[int, int], Recall]
    """by layer and key/value head"""
    queries: int
    """query tokens that were looked at"""
    blocks: float
    """share of a query's blocks that its list has, in the mean"""

    @property
    def whole(self) -> Recall:
        """All layers and heads."""
        return sum(self.heads.values(), Recall())

    def layers(self) -> dict[int, Recall]:
        """By layer."""
        found: dict[int, Recall] = defaultdict(Recall)
        for (layer, _), recall in self.heads.items():
            found[layer] += recall
        return dict(found)

    def worst(self, count: int) -> list[tuple[int, int]]:
        """Layer and head of the lowest ``chosen_recall``."""
        return sorted(self.heads, key=lambda place: self.heads[place].chosen_recall)[:count]


def sparsity(
    executor: Executor,
    probe: Probe,
    token_ids: Sequence[int],
    *,
    samples: int = 8,
    tokens: int = 8,
    progress: Progress = lambda done, total: None,
) -> Sparsity:
    """Read the text up to ``samples`` places in its sparse part, evenly apart, and write ``tokens`` tokens at each.

    ``executor`` runs on ``probe.table(...)``. Raises ``InvalidParameter`` if its attention is dense, if the text ends
    before the first sparse token, or if text and tokens exceed the context.
    """
    places = _places(executor.capabilities.sparse, len(token_ids), samples)
    probe.take()
    seen: list[Observation] = []
    for index, place in enumerate(places):
        # The first token comes of the prompt's last row, the others of a row each.
        params = SamplingParams(max_tokens=tokens + 1, ignore_eos=True)
        for _ in executor.generate(Request(token_ids=tuple(token_ids[:place]), params=params)):
            pass
        seen += probe.take()
        progress(index + 1, len(places))
    return summary(seen)


def summary(observations: Sequence[Observation]) -> Sparsity:
    """Observations added up."""
    heads: dict[tuple[int, int], Recall] = defaultdict(Recall)
    for observation in observations:
        for head, (mass, blocks) in enumerate(zip(observation.mass, observation.lists, strict=True)):
            heads[observation.layer, head] += recall(mass, blocks, observation.position, observation.sparse)
    shares = [(item.lists[0] >= 0).sum() / item.mass.shape[1] for item in observations]
    return Sparsity(
        heads=dict(sorted(heads.items())),
        queries=sum(item.layer == observations[0].layer for item in observations) if observations else 0,
        blocks=float(np.mean(shares)) if shares else 1.0,
    )


def recall(mass: npt.NDArray[np.float32], blocks: npt.NDArray[np.int32], position: int, sparse: SparseConfig) -> Recall:
    """One query and key/value head: mass [b] of its blocks, and the list [K] of those selected, -1 behind the last."""
    exact = mass.astype(np.float64)
    selected = np.zeros(len(exact), bool)
    selected[blocks[blocks >= 0]] = True
    place = np.arange(len(exact))
    forced = (place < sparse.init_blocks) | (place >= position // sparse.block_size - sparse.local_blocks)
    return Recall(
        total=exact.sum(),
        selected=exact[selected].sum(),
        oracle=_largest(exact, int(selected.sum())),
        chosen=exact[selected & ~forced].sum(),
        oracle_chosen=_largest(exact[~forced], int((selected & ~forced).sum())),
    )


def _places(sparse: SparseConfig | None, length: int, samples: int) -> list[int]:
    """Where the writing begins: token counts from the first sparse one to the whole text."""
    if samples < 1:
        raise InvalidParameter(f"samples={samples} is impossible; 1 is the least")
    if sparse is None:
        raise InvalidParameter("attention is dense: nothing is selected; ask for attention='sparse'")
    first = max(sparse.dense_len, sparse.num_blocks * sparse.block_size + 1)
    if length < first:
        raise InvalidParameter(
            f"the text has {length:,} tokens and no token before {first:,} is sparse with these constants; "
            "give more text, or a smaller topk, window_size or dense_len"
        )
    return sorted({int(place) for place in np.linspace(first, length, samples + 1)[1:]})


def _largest(values: npt.NDArray[np.float64], count: int) -> float:
    """Sum of the ``count`` largest."""
    return float(np.sort(values)[len(values) - count :].sum()) if count else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
