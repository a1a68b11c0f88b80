"""How much text makes a prompt of a given number of tokens.

A prompt is built for a number of units (characters of a haystack, noise sentences, documents) and counted by the
model's own tokenizer. Counts grow with the units, nearly: one more character may merge two tokens into one. A search by
interpolation needs about six counts, where halving an interval of 100,000 would need seventeen; counting 128K tokens
takes a third of a second.
"""

from collections.abc import Callable

from whimbrel.errors import InvalidParameter

Count = Callable[[int], int]
"""units -> tokens of the prompt"""

_NEAR = 200
"""How far from the last fitting unit an exact count is looked for; words of code can have many tokens."""


def most_units(count: Count, target: int, *, guess: int, least: int = 0, most: int | None = None) -> int:
    """The most units (from ``least`` to ``most``) whose prompt has at most ``target`` tokens.

    ``guess`` is where to start: any number is right, a good one is fast. Where counts are not monotone this is a number
    that fits while one more doesn't. Raises ``InvalidParameter`` if not even ``least`` units fit.
    """
    low, low_count = least, count(least)
    if low_count > target:
        raise InvalidParameter(
            f"a prompt of {target:,} tokens is too short for this task: it has {low_count:,} without any filling"
        )
    high = None if most is None else most + 1
    units = guess
    while low_count < target and (high is None or high - low > 1):
        units = max(units, low + 1) if high is None else min(max(units, low + 1), high - 1)
        tokens = count(units)
        per_unit = max((tokens - low_count) / (units - low), 1e-3)
        if tokens <= target:
            low, low_count = units, tokens
        else:
            high = units
        units = low + round((target - low_count) / per_unit)
    return low


def exact_units(count: Count, target: int, *, guess: int, most: int) -> int:
    """A number of units (at most ``most``) whose prompt has exactly ``target`` tokens.

    Raises ``InvalidParameter`` if there is none near the place where the count passes ``target``.
    """
    edge = most_units(count, target, guess=guess, most=most)
    for distance in range(_NEAR):
        for units in {edge - distance, edge + distance}:
            if 0 <= units <= most and count(units) == target:
                return units
    raise InvalidParameter(f"no cut of this text gives a prompt of exactly {target:,} tokens; take another --haystack")
