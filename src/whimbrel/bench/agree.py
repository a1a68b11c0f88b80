"""Do both sides compute the same? Greedy tokens and log-probabilities of one prompt, on the same weights.

Two programs that round differently part at the first *near-tie*: a place where the two likeliest tokens are closer
than the sides' own difference. What that difference is gets measured, not set: both sides score the same tokens, and
at every place the lead of the peer's best token over its second is compared. The *noise* is the largest change of that
lead, the place in question left out. A divergence is a near-tie if the peer's lead there is at most the noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from whimbrel.bench.side import Scores, Side

TEXT = (
    "The whimbrel is a large wader of the sandpiper family. It breeds on moors and tundra in the north of three "
    "continents and spends the winter on coasts far to the south. Its long bill curves downwards, and with it the bird "
    "takes crabs and other small animals from the mud. On its way it stops at the same places every year, because"
)
GREEDY_TOKENS = 48
TOP = 64
"""Likeliest tokens that are compared at each place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far two sides agree on one prompt."""

    tokens_equal: bool
    """both tokenizers cut the text alike"""
    greedy_tokens: int
    first_divergence: int | None
    """index of the first greedy token that differs, None if all agree"""
    lead: float | None
    """the peer's log-probability of its choice there, less that of its second"""
    noise: float
    """the largest difference between the sides' leads, over all other places"""
    logprob_rms: float
    """root mean square of the difference of log-probabilities of the same tokens at the same places"""
    logprob_max: float

    @property
    def agrees(self) -> bool:
        """True if all tokens are equal, or part first at a near-tie."""
        near_tie = self.lead is not None and self.lead <= self.noise
        return self.tokens_equal and (self.first_divergence is None or near_tie)


def agreement(ours: Side, peer: Side, text: str = TEXT, count: int = GREEDY_TOKENS) -> Agreement:
    """Compare two sides on a text's ids and ``count`` greedy tokens after them."""
    prompt = peer.tokenize(text)
    expected = peer.greedy(prompt, count)
    places = [*prompt, *expected]
    return compare(
        ours.greedy(prompt, count),
        expected,
        ours.score(places, len(prompt), TOP),
        peer.score(places, len(prompt), TOP),
        tokens_equal=ours.tokenize(text) == prompt,
    )


def compare(
    tokens: Sequence[int], expected: Sequence[int], ours: Scores, peer: Scores, *, tokens_equal: bool = True
) -> Agreement:
    """Compare greedy tokens, and scores that both sides gave the peer's tokens ``expected``."""
    parted = next((i for i, (mine, theirs) in enumerate(zip(tokens, expected, strict=True)) if mine != theirs), None)
    changes = [_change_of_lead(mine, theirs) for mine, theirs in zip(ours.top, peer.top, strict=True)]
    differences = differences_of(ours, peer)
    return Agreement(
        tokens_equal=tokens_equal,
        greedy_tokens=len(expected),
        first_divergence=parted,
        lead=None if parted is None else lead_of(peer.top[parted]),
        noise=max((change for place, change in enumerate(changes) if place != parted), default=0.0),
        logprob_rms=math.sqrt(math.fsum(d * d for d in differences) / len(differences)),
        logprob_max=max(abs(d) for d in differences),
    )


def lead_of(top: Sequence[tuple[int, float]]) -> float:
    """Log-probability of the likeliest token less that of the second."""
    return top[0][1] - top[1][1]


def differences_of(ours: Scores, peer: Scores) -> list[float]:
    """Differences of log-probabilities, over the tokens that both sides list at the same place."""
    found = []
    for mine, theirs in zip(ours.top, peer.top, strict=True):
        listed = dict(mine)
        found += [listed[token] - logprob for token, logprob in theirs if token in listed]
    return found


def _change_of_lead(ours: Sequence[tuple[int, float]], peer: Sequence[tuple[int, float]]) -> float:
    """How much the lead of the peer's best over its second differs between the sides; infinite if ours lacks one."""
    listed = dict(ours)
    (first, _), (second, _) = peer[:2]
    if first not in listed or second not in listed:
        return math.inf
    return abs(listed[first] - listed[second] - lead_of(peer))
