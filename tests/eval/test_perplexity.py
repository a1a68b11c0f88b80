"""Perplexity: windows, halves and begin tokens as llama.cpp's tool has them; the sum by hand on a scripted scorer."""

import math
from collections.abc import Sequence

import pytest

from whimbrel.errors import InvalidParameter
from whimbrel.eval.perplexity import perplexity_of

WINDOW = 8


def score_by_id(token_ids: Sequence[int]) -> list[float]:
    """Log-probability -id / 10 for every id but the first."""
    return [-token / 10 for token in token_ids[1:]]


def test_only_the_second_half_of_each_whole_window_counts() -> None:
    ids = list(range(20))  # two windows, four ids left over
    result = perplexity_of(score_by_id, ids, window=WINDOW)
    counted = [5, 6, 7, 13, 14, 15]  # of n ids the tool scores positions n/2 + 1 ... n - 1
    assert result.scored == len(counted)
    assert result.perplexity == pytest.approx(math.exp(sum(counted) / 10 / len(counted)))
    assert [window.first for window in result.windows] == [0, 8]


def test_standard_error_is_that_of_the_mean() -> None:
    counted = [0.5, 0.6, 0.7, 1.3, 1.4, 1.5]
    mean = sum(counted) / 6
    variance = sum(v * v for v in counted) / 6 - mean * mean
    result = perplexity_of(score_by_id, list(range(16)), window=WINDOW)
    assert result.standard_error == pytest.approx(math.exp(mean) * math.sqrt(variance / 5))


def test_begin_token_replaces_the_first_id_of_every_window() -> None:
    seen: list[list[int]] = []

    def record(token_ids: Sequence[int]) -> list[float]:
        seen.append(list(token_ids))
        return score_by_id(token_ids)

    perplexity_of(record, list(range(100, 116)), window=WINDOW, begin=1)
    assert [window[0] for window in seen] == [1, 1]
    assert [window[1:] for window in seen] == [list(range(101, 108)), list(range(109, 116))]


def test_progress_and_a_limit_on_windows() -> None:
    calls: list[tuple[int, int]] = []
    result = perplexity_of(
        score_by_id,
        list(range(80)),
        window=WINDOW,
        max_windows=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert len(result.windows) == 3


def test_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="7 tokens and a window 8"):
        perplexity_of(score_by_id, list(range(7)), window=WINDOW)
