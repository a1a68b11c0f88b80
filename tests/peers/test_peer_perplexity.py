"""Perplexity of real text, within half a per cent of llama.cpp's, over the same windows."""

from collections.abc import Sequence
from typing import Any

import pytest
from material import EXAMPLE, documents

from whimbrel.bench.side import Side
from whimbrel.eval.perplexity import Perplexity, Score, perplexity_of

WINDOW = 512
WINDOWS = 200
"""200 windows of 512: 102,400 tokens read, 51,000 of them scored."""


def scored_by(side: Side) -> Score:
    """``Executor.score`` of a side; the first half of a window needs no scores, so none are computed for it."""

    def score(token_ids: Sequence[int]) -> list[float]:
        half = len(token_ids) // 2
        return [0.0] * (half - 1) + list(side.score(token_ids, half, 0).logprobs)

    return score


def both(ours: Side, peer: Side, text: str, windows: int | None) -> tuple[Perplexity, Perplexity]:
    """Ours and llama.cpp's."""
    ids = peer.tokenize(text)
    mine, theirs = (perplexity_of(scored_by(side), ids, window=WINDOW, max_windows=windows) for side in (ours, peer))
    print(
        f"ours {mine.perplexity:.4f}, llama.cpp {theirs.perplexity:.4f} +- {theirs.standard_error:.4f}, {mine.scored} tokens"
    )
    return mine, theirs


def test_long_real_text(ours: Side, peer: Side, record: dict[str, Any]) -> None:
    text = "\n\n".join(documents()[300:340])
    mine, theirs = both(ours, peer, text, WINDOWS)
    assert theirs.scored >= 50_000
    record["perplexity_of_documents"] = {
        "window": WINDOW, "scored": theirs.scored, "llama_cpp": theirs.perplexity, "whimbrel": mine.perplexity
    }  # fmt: skip
    assert mine.perplexity == pytest.approx(theirs.perplexity, rel=0.005)


def test_the_example_document(ours: Side, peer: Side, record: dict[str, Any]) -> None:
    mine, theirs = both(ours, peer, EXAMPLE.read_text(encoding="utf-8"), None)
    record["perplexity_of_example"] = {
        "document": EXAMPLE.name,
        "window": WINDOW,
        "llama_cpp": [round(window.negative_log_likelihood, 4) for window in theirs.windows],
    }
    assert mine.perplexity == pytest.approx(theirs.perplexity, rel=0.01)
