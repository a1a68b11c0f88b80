"""sample: against the warpers of transformers, by counting, and against itself in fewer candidates."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from harness import needs_native, on_every_isa

from whimbrel.ops.dispatch import get
from whimbrel.ops.sample import reference, top_logprobs
from whimbrel.ops.sample.cases import CASES, OFF, SampleCase

UNIFORMS = (1e-6, 0.1, 0.25, 0.5, 0.77, 0.9, 0.999)
EXTREMES = (0.0, 1e-9, 1 - 2**-53)
"""Where rounding decides which of the least likely tokens it is."""
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def run(impl: str, arguments: dict[str, Any], uniform: float) -> tuple[int, float]:
    token_id, logprob = get("sample").choose(impl)(**arguments, uniform=uniform)
    return token_id, logprob


def peer_distribution(arguments: dict[str, Any]) -> Any:
    """Probabilities [V] after the warpers of transformers."""
    warpers = pytest.importorskip("transformers.generation.logits_process")
    scores = torch.from_numpy(arguments["logits"].astype(np.float64))[None]
    chain: list[Any] = [warpers.TemperatureLogitsWarper(arguments["temperature"])]
    if 0 < arguments["top_k"]:
        chain.append(warpers.TopKLogitsWarper(arguments["top_k"]))
    if arguments["top_p"] < 1:
        chain.append(warpers.TopPLogitsWarper(arguments["top_p"]))
    if arguments["min_p"] > 0:
        chain.append(warpers.MinPLogitsWarper(arguments["min_p"]))
    if arguments["typical_p"] < 1:
        chain.append(warpers.TypicalLogitsWarper(arguments["typical_p"]))
    for warper in chain:
        scores = warper(None, scores)
    return torch.softmax(scores, -1)[0].numpy()


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not case.ties and ("temperature", 0.0) not in case.changes],
    ids=lambda case: case.name,
)
def test_the_filters_keep_what_the_warpers_of_transformers_keep(case: SampleCase) -> None:
    """Their warper refuses temperature 0, and sorts equals as it comes."""
    arguments = case.arrays()
    cumulative = np.cumsum(peer_distribution(arguments))
    for uniform in UNIFORMS:
        expected = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
        assert run("reference", arguments, uniform)[0] == expected


@EVERY_CASE
def test_logprobs_are_of_the_untempered_row(case: SampleCase) -> None:
    arguments = case.arrays()
    token_id, logprob = run("reference", arguments, 0.5)
    exact = torch.log_softmax(torch.from_numpy(arguments["logits"]).double(), -1)
    assert logprob == pytest.approx(exact[token_id].item(), rel=1e-12)


@on_every_isa
@EVERY_CASE
def test_native_picks_the_token_of_the_reference(case: SampleCase, isa: str) -> None:
    for seed in range(5):
        arguments = case.arrays(seed)
        for uniform in UNIFORMS:
            token_id, logprob = run("native", arguments, uniform)
            expected, exact = run("reference", arguments, uniform)
            assert token_id == expected
            assert logprob == pytest.approx(exact, rel=1e-5, abs=1e-5)


@EVERY_CASE
@pytest.mark.parametrize("impl", ["reference", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("uniform", EXTREMES)
def test_an_extreme_uniform_still_gives_a_token_that_was_kept(case: SampleCase, uniform: float, impl: str) -> None:
    """Rounding of the last sums must not reach a token without probability, or beyond the vocabulary."""
    arguments = case.arrays()
    token_id, _ = run(impl, arguments, uniform)
    logits = arguments["logits"].astype(np.float64)
    tempered = (
        logits / arguments["temperature"] if arguments["temperature"] else np.where(logits == logits.max(), 0, -np.inf)
    )
    assert reference.softmax(tempered)[token_id] > 0
    assert np.sum(logits > logits[token_id]) < (arguments["top_k"] or np.inf)


def test_temperature_zero_takes_the_lowest_id_among_equals() -> None:
    logits = np.array([0, 3, 1, 3, 3], np.float32)
    assert run("reference", {"logits": logits, "temperature": 0.0}, 0.99)[0] == 1


def test_frequencies_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    uniforms = (np.arange(800) + 0.5) / 800
    counts = Counter(run("reference", {"logits": logits, **OFF}, uniform)[0] for uniform in uniforms)
    assert counts == {0: 400, 1: 200, 2: 100, 3: 100}


@pytest.mark.parametrize("bad", [np.full(5, -np.inf, np.float32), np.array([0, np.nan, 1], np.float32)])
@pytest.mark.parametrize("impl", ["reference", pytest.param("native", marks=needs_native)])
def test_a_row_without_a_finite_largest_logit_is_refused(bad: Any, impl: str) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="none of . logits is finite, or one is a NaN"):
            run(impl, {"logits": bad, **OFF, "temperature": temperature}, 0.5)


def test_the_logits_are_left_alone() -> None:
    arguments = CASES[-5].arrays()
    before = arguments["logits"].copy()
    run("reference", arguments, 0.3)
    top_logprobs(arguments["logits"], 5)
    np.testing.assert_array_equal(arguments["logits"], before)


@EVERY_CASE
def test_top_logprobs_are_the_head_of_the_sorted_log_softmax(case: SampleCase) -> None:
    logits = case.arrays()["logits"]
    exact = np.log(
        reference.softmax(logits.astype(np.float64)), where=np.isfinite(logits), out=np.full(len(logits), -np.inf)
    )
    order = np.argsort(-logits, kind="stable")
    for n in (0, 1, 5, len(logits), len(logits) + 3):
        best = top_logprobs(logits, n)
        assert [token_id for token_id, _ in best] == order[:n].tolist()
        np.testing.assert_allclose([logprob for _, logprob in best], exact[order[:n]], rtol=1e-6, atol=1e-6)
