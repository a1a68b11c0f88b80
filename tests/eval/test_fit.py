"""Cutting prompts to length: exact where it can be, never over, few counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.errors import InvalidParameter
from whimbrel.eval.fit import exact_units, most_units


@given(
    steps=st.lists(st.integers(0, 9), min_size=1, max_size=300),
    target=st.integers(20, 900),
    guess=st.integers(-5, 500),
)
def test_the_most_that_fits(steps: list[int], target: int, guess: int) -> None:
    totals = [20]
    for step in steps:
        totals.append(totals[-1] + step)
    found = most_units(lambda units: totals[units], target, guess=guess, most=len(steps))
    assert totals[found] <= target
    assert found == len(steps) or totals[found + 1] > target or totals[found] == target


def test_few_counts_are_needed() -> None:
    counts: list[int] = []

    def count(units: int) -> int:
        counts.append(units)
        return 250 + units * 10 // 43

    assert count(exact_units(count, 131_072, guess=500_000, most=1_000_000)) == 131_072
    assert len(counts) < 12


def test_counts_that_jump_back_are_found_all_the_same() -> None:
    tokens = [0, 1, 2, 4, 3, 4, 6, 5, 7, 7, 9, 8, 10]  # merging takes a token away now and then
    for target in (3, 5, 8):
        assert tokens[exact_units(lambda units: tokens[units], target, guess=6, most=len(tokens) - 1)] == target


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="a prompt of 99 tokens is too short for this task: it has 100"):
        most_units(lambda units: 100 + units, 99, guess=1)
    with pytest.raises(InvalidParameter, match="exactly 101 tokens"):
        exact_units(lambda units: 100 + 2 * units, 101, guess=1, most=50)
