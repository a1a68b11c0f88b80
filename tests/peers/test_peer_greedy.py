"""Greedy answers and scores beside llama.cpp on the same file.

Two programs round activations differently, so tokens may part where the two likeliest are closer than the sides' own
difference (``bench.agree`` says how that is measured); elsewhere they may not. And our log-probabilities may be at most
twice as far from the exact ones (fp32 reference, nothing rounded but the stored weights) as llama.cpp's are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from material import EXAMPLE, prompts

from whimbrel.bench.agree import Agreement, compare, differences_of, lead_of
from whimbrel.bench.side import Scores, Side

COUNT = 48
TOP = 64


def test_greedy_answers_to_varied_prompts(ours: Side, peer: Side, record: dict[str, Any]) -> None:
    found = [ask(ours, peer, peer.tokenize(text)) for text in prompts()]
    assert all(ours.tokenize(text) == peer.tokenize(text) for text in prompts())
    record["noise"] = noise = max(one.agreement.noise for one in found)
    differing = [lead for one in found for lead in one.differing]
    report(found, differing, noise)
    assert all(one.agreement.lead <= noise for one in found if one.agreement.lead is not None)
    assert max(differing, default=0.0) <= noise, (
        "after the peer's own tokens, only near-ties may be decided differently"
    )
    assert len(differing) <= COUNT * len(found) / 10


def test_greedy_after_parts_of_the_example_document(ours: Side, peer: Side, record: dict[str, Any]) -> None:
    ids = peer.tokenize(EXAMPLE.read_text(encoding="utf-8"))
    prompts = [ids[start : start + 64] for start in range(0, 8 * 256, 256)]
    found = [ask(ours, peer, prompt) for prompt in prompts]
    record["greedy"] = [
        {"prompt": prompt, "tokens": one.tokens, "leads": [round(lead_of(top), 4) for top in one.peer.top]}
        for prompt, one in zip(prompts, found, strict=True)
    ]
    assert all(lead <= record["noise"] for one in found for lead in one.differing)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What both sides made of one prompt."""

    tokens: list[int]
    """llama.cpp's greedy ones"""
    peer: Scores
    agreement: Agreement
    differing: list[float]
    """llama.cpp's lead wherever, after the same tokens, the likeliest ones differ"""


def ask(ours: Side, peer: Side, prompt: list[int]) -> Answer:
    """Greedy tokens of both, and both sides' scores of llama.cpp's."""
    expected = peer.greedy(prompt, COUNT)
    theirs, mine = (side.score([*prompt, *expected], len(prompt), TOP) for side in (peer, ours))
    pairs = zip(mine.top, theirs.top, strict=True)
    return Answer(
        tokens=expected,
        peer=theirs,
        agreement=compare(ours.greedy(prompt, COUNT), expected, mine, theirs),
        differing=[lead_of(their_top) for my_top, their_top in pairs if my_top[0][0] != their_top[0][0]],
    )


def test_scores_are_as_good_as_the_peers(ours: Side, peer: Side, exact: Side) -> None:
    errors_ours, errors_peer = list[float](), list[float]()
    for text in prompts()[:6]:
        ids = peer.tokenize(text)[:200]
        first = len(ids) // 2
        truth = exact.score(ids, first, TOP)
        errors_ours += differences_of(ours.score(ids, first, TOP), truth)
        errors_peer += differences_of(peer.score(ids, first, TOP), truth)
    print(f"rms error: ours {rms(errors_ours):.5f}, llama.cpp's {rms(errors_peer):.5f}")
    assert rms(errors_ours) <= 2 * rms(errors_peer)


def report(found: Sequence[Answer], differing: Sequence[float], noise: float) -> None:
    """What was found, for those who run with ``-s``."""
    for index, one in enumerate(found):
        parted = one.agreement
        print(f"prompt {index}: parts at {parted.first_divergence}, lead {parted.lead}, rms {parted.logprob_rms:.4f}")
    print(
        f"{len(differing)} of {COUNT * len(found)} places differ, leads to {max(differing, default=0):.3f}; {noise=:.3f}"
    )


def rms(values: list[float]) -> float:
    """Root mean square."""
    return math.sqrt(math.fsum(v * v for v in values) / len(values))
