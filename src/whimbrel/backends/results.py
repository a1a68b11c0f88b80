"""What the text level returns: ``Piece`` while it streams, ``Completion`` at the end, ``Score`` of a text.

An answer has up to three parts: what the model thought (``reasoning``), what it says (``text``), and the tools that it
wants called. A piece carries what one step adds to each of them.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whimbrel.backends.executor import FinishReason, Timings, TokenLogprob, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCallPiece:
    """What one step adds to a tool call. The first piece of a call has its ``id`` and ``name``, later ones have not."""

    index: int
    """which call of the answer, from 0"""
    id: str = ""
    name: str = ""
    arguments: str = ""
    """JSON text to append"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A tool that the model wants called."""

    id: str
    """made up here; the message with the tool's result names it"""
    name: str
    arguments: str
    """JSON text of an object, as the model wrote it; only a constrained call is sure to fit the tool's schema"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one step adds. While the prompt is read, ``text`` is empty and ``processed`` grows."""

    text: str
    """whole characters, ready to be shown; may be empty"""
    token_ids: tuple[int, ...] = ()
    processed: int
    """tokens of the prompt that have been read"""
    prompt_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    """set on the last piece"""
    reasoning: str = ""
    """what the model thinks before it answers, as ``text`` is what it says; models that think in tags only"""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    cached_tokens: int = 0
    """of the prompt's tokens, those that the cache served"""
    prefill: float = 0.0
    """seconds that reading the prompt has taken so far"""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document that an answer read."""

    document: str
    start: int
    """characters from the document's beginning, as ``end``"""
    end: int
    text: str
    score: float
    """share of the answer's attention, over all layers, heads and tokens"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """An answer, complete or as far as it came."""

    text: str
    token_ids: tuple[int, ...]
    """all ids written, the one that ended the answer included"""
    prompt_token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop: str | None
    """the stop string that ended it"""
    usage: Usage
    timings: Timings
    seed: int
    """the seed that was used; the same one gives the same answer"""
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """of the prompt's tokens but the first, if they were asked for"""
    block_mass: tuple[float, ...] = ()
    """share of the answer's attention that each block of 64 tokens got, if it was asked for; adds up to 1"""
    passages: tuple[Passage, ...] = ()
    """what it read most in its documents, if that was asked for"""
    reasoning: str = ""
    """what it thought before it answered, without the tags"""
    tool_calls: tuple[ToolCall, ...] = ()
    """the tools that it wants called, in the order it wrote them"""

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens read per second, without those from the cache; None if none were read."""
        read = self.usage.prompt_tokens - self.usage.cached_tokens
        return read / self.timings.prefill if read and self.timings.prefill else None

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second after the first one; None if there were none."""
        written = self.usage.completion_tokens - 1
        return written / self.timings.decode if written > 0 and self.timings.decode else None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedding:
    """A text as a vector: not of length 1, as it comes out of the network."""

    vector: npt.NDArray[np.float32]
    """[hidden_size]"""
    token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How likely a text is to the model."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """natural logarithms, of each token but the first"""

    @property
    def total(self) -> float:
        """Log-probability of the whole text, given its first token."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability."""
        return math.exp(-self.total / len(self.logprobs))
