"""What both sides of a comparison can do: time a prompt and its continuation, and say what they computed.

A *setting* is one way to run a side, by name; the comparison tries all and keeps the best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

DENSE, SPARSE = "dense", "sparse"
"""Our side's settings: to attend to everything, or by InfLLM v2 with the model's constants or the published ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of one run."""

    prefill: float
    """the whole prompt, until the scores of the first new token are there"""
    decode: float
    """the new tokens after that, one at a time"""
    decoded: int
    """how many those were"""
    foreign_load: float | None
    """share of the machine that other processes used meanwhile"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a side thinks of the last tokens of a sequence."""

    logprobs: tuple[float, ...]
    """log-probability of each of these tokens, given all before it"""
    top: tuple[tuple[tuple[int, float], ...], ...]
    """at each of their places, the likeliest tokens and their log-probabilities, best first"""


class Side(Protocol):
    """One program under measurement, with a model loaded."""

    settings: tuple[str, ...]
    """all ways to run it, the file's own weights first"""

    def describe(self) -> Mapping[str, object]:
        """Versions, and what else belongs beside its numbers."""
        ...

    def warm_up(self, setting: str) -> None:
        """Whatever happens only once: page faults, threads, buffers."""
        ...

    def measure(self, setting: str, prompt: Sequence[int], decode: int) -> Timing:
        """Read ``prompt`` from nothing, then compute ``decode`` further tokens one at a time."""
        ...

    def measure_at(self, setting: str, depth: int, chunk: int, decode: int) -> Timing:
        """A chunk of a prompt after ``depth`` tokens that needn't be computed, then ``decode`` tokens one at a time.

        ``depth`` is a multiple of 512. ``prefill`` of the result is the chunk's time.
        """
        ...

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ...

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The ``count`` likeliest tokens after ``prompt``, with the file's own weights; end tokens don't end it."""
        ...

    def score(self, token_ids: Sequence[int], first: int, top: int) -> Scores:
        """Scores of ``token_ids[first:]``, each given all before it, with the ``top`` likeliest tokens at its place."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...
