"""The real default model finds a needle, and loses it where sparse attention may not look: the harness measures."""

from pathlib import Path

import pytest

from whimbrel.backends.llm import LLM
from whimbrel.eval import niah
from whimbrel.eval.haystack import Haystack
from whimbrel.eval.journal import Journal
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.record import mean_score, run

WINDOW_ONLY = {"topk": 2, "window_size": 64, "dense_len": 1}
"""The first block, one chosen and two of the window."""


@pytest.mark.parametrize(("attention", "least", "most"), [("dense", 100, 100), ("sparse", 0, 34)])
def test_needles(smollm2: Path, haystack: Haystack, attention: str, least: float, most: float) -> None:
    options = {"sparse": WINDOW_ONLY} if attention == "sparse" else {}
    with LLM(smollm2, context=1024, attention=attention, **options) as llm:
        items = list(niah.items(Prompter(llm), haystack, lengths=[768], depths=[0.3, 0.5, 0.7]))
        records = run(llm, items, Journal())
    score = mean_score(records)
    assert score is not None and least <= score <= most
    assert all(record.prompt_tokens == 768 for record in records)
    assert (records[0].last_sparsity > 0.6) == (attention == "sparse")
