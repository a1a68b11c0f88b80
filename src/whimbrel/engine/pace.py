"""How long a step will take, learnt from the steps before it.

A step of r rows that see k keys takes about  pace * (row * r + key * k)  seconds. How a row and a key compare is a
property of model and machine: a least-squares fit over the last thousand steps or so. While one long prompt is read, all
steps look alike and say little about it; there the fit leans on what the shapes of the model let expect. ``pace`` follows
the latest steps, because other programs come and go.
"""

from dataclasses import dataclass

from whimbrel.attention.keys import count_keys
from whimbrel.models.config import ModelConfig

DECODING_KEYS = 4
"""A key costs a row that is alone in its sequence so many times what it costs each of many rows: it is read from memory
for that row alone (SmolLM2-135M, Zen 4, two threads: 0.9 µs against 0.2)."""
SCORED_KEYS = 1 / 48
"""A key that sparse attention leaves out, but whose semantic kernel it scores, against one that it attends to (128K keys)."""

MEMORY = 0.998
"""Weight of a measured step in the fit, per step since."""
EXPECTED = 0.05
"""How much the fit leans on the ratio that is expected: a measured step weighs 1/EXPECTED² = 400 times as much."""
HASTE = 0.3
"""Share of the way that ``pace`` goes towards the latest step."""
SURPRISE = 2.0
"""A step that took longer or shorter by more than this factor counts as if by this factor."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a step has to compute."""

    rows: int = 0
    keys: float = 0.0
    """that its rows see, in units of a key that many rows see together"""

    def __add__(self, other: "Load") -> "Load":
        return Load(self.rows + other.rows, self.keys + other.keys)


class Pace:
    """Seconds of a step before it runs."""

    def __init__(self, config: ModelConfig) -> None:
        """``config``: shapes of the model, and its attention."""
        self._sparse = config.sparse
        self._unit = expected_key(config)
        self._pace = 1.0
        self._row, self._key = 0.0, 0.0  # seconds of a row, and of 1/unit keys
        self._squares = [0.0, 0.0, 0.0]  # of the fit's normal equations: row * row, row * key, key * key
        self._sums = [0.0, 0.0]

    @property
    def is_known(self) -> bool:
        """True once a step was measured."""
        return self._row > 0

    def load(self, start: int, stop: int) -> Load:
        """Of a sequence's tokens ``start`` to ``stop - 1``."""
        keys = count_keys(start, stop, self._sparse)
        seen = keys.attended + (keys.visible - keys.attended) * SCORED_KEYS
        return Load(stop - start, seen * DECODING_KEYS if stop - start == 1 else seen)

    def seconds(self, load: Load) -> float:
        """What a step of this load will take. Only where ``is_known``."""
        return self._pace * (self._row * load.rows + self._key * load.keys * self._unit)

    def learn(self, load: Load, seconds: float) -> None:
        """A step of this load took so long."""
        if seconds <= 0 or load.rows <= 0:
            return
        if self.is_known:
            surprise = min(max(seconds / self.seconds(load), 1 / SURPRISE), SURPRISE)
            self._pace *= surprise**HASTE
        self._fit(load.rows / seconds, load.keys * self._unit / seconds)

    def _fit(self, rows: float, keys: float) -> None:
        """One more equation  rows * row + keys * key = 1,  relative errors counting alike, and  key = row  beside it."""
        before = self._row * rows + self._key * keys
        lean = (EXPECTED * keys) ** 2
        new = rows * rows + lean, rows * keys - lean, keys * keys + lean
        self._squares = [MEMORY * old + more for old, more in zip(self._squares, new, strict=True)]
        self._sums = [MEMORY * old + more for old, more in zip(self._sums, (rows, keys), strict=True)]
        self._row, self._key = _solve(self._squares, self._sums)
        if before > 0:  # what the fit learnt, pace need not follow
            self._pace *= before / (self._row * rows + self._key * keys)


def _solve(squares: list[float], sums: list[float]) -> tuple[float, float]:
    """Seconds of a row and of a unit of keys that fit best, none of them negative."""
    rr, rk, kk = squares
    determinant = rr * kk - rk * rk
    row, key = (kk * sums[0] - rk * sums[1]), (rr * sums[1] - rk * sums[0])
    if determinant > 0 and row > 0 and key >= 0:
        return row / determinant, key / determinant
    both = sum(sums) / (rr + 2 * rk + kk)  # a degenerate fit: take the expected ratio
    return both, both


def expected_key(config: ModelConfig) -> float:
    """Multiplications that a key costs a row, over those of the row's linear layers."""
    heads = config.num_attention_heads * config.head_dim
    key_heads = config.num_key_value_heads * config.head_dim
    linear = config.hidden_size * (2 * heads + 2 * key_heads + 3 * config.intermediate_size)
    return 2 * heads / linear
