"""What a long prompt costs a program that attends to everything, from what single chunks of it cost.

Dense attention makes a token's time a straight line over the number of keys before it, so a few depths give the whole:
a prompt's time is the area under that line. Used where reading the prompt itself would take too long, and said so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from whimbrel.bench.side import Side, Timing

DEPTHS = (0, 2048, 8192, 32768)
"""Tokens before the chunks that stand for a prompt; the prompt's own length comes on top."""
CHUNKS = {0: 512, 2048: 512, 8192: 256, 32768: 128, 131072: 64}
"""Tokens of a chunk from that depth on: a few seconds of work each."""
NEW_TOKENS = 8


class DeepPeer:
    """The peer at one length that it won't read whole: times of its prompts are the areas described above."""

    def __init__(self, peer: Side, context: int) -> None:
        """``context`` is rounded down to what ``Side.measure_at`` takes."""
        self._peer = peer
        self._depth = context // 512 * 512
        self._costs: dict[str, list[DepthCost]] = {}

    def measure(self, setting: str, prompt: Sequence[int], decode: int) -> Timing:
        """As ``Side.measure``: the prompt's time is computed from chunks, the new tokens' measured at its end."""
        if setting not in self._costs:
            depths = [depth for depth in DEPTHS if depth < self._depth]
            self._costs[setting] = [self._cost(setting, depth)[0] for depth in depths]
        cost, timing = self._cost(setting, self._depth)
        return Timing(
            prefill=prompt_seconds([*self._costs[setting], cost], len(prompt)),
            decode=timing.decode,
            decoded=timing.decoded,
            foreign_load=timing.foreign_load,
        )

    def _cost(self, setting: str, depth: int) -> tuple["DepthCost", Timing]:
        chunk = CHUNKS[max(start for start in CHUNKS if start <= depth)]
        timing = self._peer.measure_at(setting, depth, chunk, NEW_TOKENS)
        return DepthCost.of(depth, chunk, timing), timing


@dataclass(frozen=True, slots=True)
class DepthCost:
    """Seconds of one token of a prompt after ``depth`` others."""

    depth: float
    prompt_token: float

    @classmethod
    def of(cls, depth: int, chunk: int, timing: Timing) -> "DepthCost":
        """From a chunk computed at that depth: its mean is the cost at its middle."""
        return cls(depth + chunk / 2, timing.prefill / chunk)


def prompt_seconds(costs: Sequence[DepthCost], tokens: int) -> float:
    """Area under the line through the costs, from 0 to ``tokens``; its first and last pieces go on beyond the ends.

    ``costs`` ascend in depth; at least two.
    """
    points = [(cost.depth, cost.prompt_token) for cost in costs]
    inner = [depth for depth, _ in points[1:-1] if depth < tokens]
    edges = [0.0, *inner, float(tokens)]
    return sum((end - start) * (_at(points, start) + _at(points, end)) / 2 for start, end in pairwise(edges))


def _at(points: Sequence[tuple[float, float]], x: float) -> float:
    """Piecewise linear, the outer pieces extended."""
    after = next((i for i, (depth, _) in enumerate(points) if depth > x), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(after, 1) - 1], points[max(after, 1)]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
