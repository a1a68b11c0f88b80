"""Perplexity of a model on a long text, defined exactly as llama.cpp's perplexity tool defines it.

The ids are cut into windows of ``window`` ids, one after the other; an incomplete one at the end is left out. If the
tokenizer puts a begin token before texts, it replaces the first id of every window. Each window is read on its own.
In its first half the model only warms up: of positions ``0 ... window - 1``, those from ``window // 2 + 1`` on are
scored, each given all before it in the window. Perplexity is exp of the mean negative log-probability over all scored
ids of all windows; its standard error follows from their variance (delta method).

``perplexity_all`` counts every id of a window but its first: the figure for long windows, where half a window is not
needed to warm up, and where the two together show what distance does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whimbrel.backends.executor import Executor
from whimbrel.errors import InvalidParameter

WINDOW = 512
"""Ids of a window, as in llama.cpp's published numbers."""

Score = Callable[[Sequence[int]], Sequence[float]]
"""``Executor.score``: log-probability of each id but the first, given those before it."""
Progress = Callable[[int, int], None]
"""Gets the windows that are done, and all windows."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one window added: the record of an item."""

    first: int
    """position in the text's ids"""
    scored: int
    negative_log_likelihood: float
    """sum over the scored ids, natural logarithm"""
    all_negative_log_likelihood: float
    """the same over every id but the first"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """The score, and how it came about."""

    perplexity: float
    standard_error: float
    perplexity_all: float
    """over every id but the first of each window"""
    window: int
    scored: int
    windows: tuple[Window, ...]


def perplexity(
    executor: Executor,
    token_ids: Sequence[int],
    *,
    window: int = WINDOW,
    begin: int | None = None,
    max_windows: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Perplexity:
    """Perplexity of the text with these ids.

    ``begin`` is the begin token where the tokenizer adds one (None: it adds none; the ids then start with none either).
    Raises ``InvalidParameter`` if the window is longer than the executor's context, or the text shorter than a window.
    """
    longest = executor.capabilities.max_context
    if not 4 <= window <= longest:
        raise InvalidParameter(f"window={window} is impossible; the context holds {longest} tokens, and 4 is the least")
    return perplexity_of(
        executor.score, token_ids, window=window, begin=begin, max_windows=max_windows, progress=progress
    )


def perplexity_of(
    score: Score,
    token_ids: Sequence[int],
    *,
    window: int = WINDOW,
    begin: int | None = None,
    max_windows: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Perplexity:
    """The same over anything that scores ids."""
    count = len(token_ids) // window
    if max_windows is not None:
        count = min(count, max_windows)
    if count < 1:
        raise InvalidParameter(f"the text has {len(token_ids)} tokens and a window {window}: give more text")
    records, squares = [], 0.0
    for index in range(count):
        every = score(window_ids(token_ids, index, window, begin))
        scores = scored_part(every, window)
        records.append(Window(index * window, len(scores), -math.fsum(scores), -math.fsum(every)))
        squares += math.fsum(value * value for value in scores)
        progress(index + 1, count)
    return _total(records, squares, window)


def window_ids(token_ids: Sequence[int], index: int, window: int, begin: int | None) -> list[int]:
    """Ids of one window, the begin token in front where there is one."""
    ids = list(token_ids[index * window : (index + 1) * window])
    return ids if begin is None else [begin, *ids[1:]]


def scored_part(logprobs: Sequence[float], window: int) -> Sequence[float]:
    """Of the ``window - 1`` log-probabilities of a window, those that count: of positions ``window // 2 + 1`` on."""
    assert len(logprobs) == window - 1
    return logprobs[window // 2 :]


def _total(records: list[Window], squares: float, window: int) -> Perplexity:
    scored = sum(record.scored for record in records)
    mean = math.fsum(record.negative_log_likelihood for record in records) / scored
    variance = max(0.0, squares / scored - mean * mean)
    value = math.exp(mean)
    error = value * math.sqrt(variance / max(1, scored - 1))
    every = math.fsum(record.all_negative_log_likelihood for record in records) / (len(records) * (window - 1))
    return Perplexity(
        perplexity=value,
        standard_error=error,
        perplexity_all=math.exp(every),
        window=window,
        scored=scored,
        windows=tuple(records),
    )
