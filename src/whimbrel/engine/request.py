"""What enters the engine (``Request``, ``SamplingParams``), what leaves it (``StepOutput``), and ``Sequence`` between.

The first three are frozen and check themselves; a wrong value raises ``InvalidParameter`` with its name, the value and
the range. ``Sequence`` is the engine's own mutable state of one request.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.attention.keys import KeyCount, count_keys
from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine.constrain import Constraint, Grammar
from whimbrel.engine.pooling import Pooled
from whimbrel.errors import InvalidParameter, UsageError, WhimbrelError

NO_KEYS = KeyCount()

POOLINGS = (None, "mean", "last")

MAX_LOGPROBS = 100
"""Most alternatives that may be asked for at each token."""


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """an end-of-sequence token, a stop token, or (text level) a stop string"""
    LENGTH = "length"
    """``max_tokens`` were written, or the context is full"""
    ABORT = "abort"
    """someone stopped it"""
    ERROR = "error"
    """no token could be chosen; ``StepOutput.error`` says why"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are chosen. The defaults are greedy, without penalties, to the end of the context.

    Order: repetition penalty, presence and frequency penalty, logit bias, then the ``sample`` op: temperature, top-k,
    top-p, min-p, typical-p, draw. Log-probabilities are those of the model, before all of it.
    """

    temperature: float = 0.0
    """0 is greedy: the highest logit, the smaller id on ties"""
    top_k: int = 0
    """keep the k likeliest tokens; 0 keeps all"""
    top_p: float = 1.0
    """keep the likeliest tokens whose probabilities add up to p"""
    min_p: float = 0.0
    """drop tokens below this share of the likeliest one's probability"""
    typical_p: float = 1.0
    """locally typical sampling (Meister et al., 2023): mass kept, by distance from the entropy"""
    repetition_penalty: float = 1.0
    """divides positive and multiplies negative logits of tokens in prompt or answer (Keskar et al., 2019, CTRL)"""
    presence_penalty: float = 0.0
    """subtracted once from the logit of every token of the answer so far"""
    frequency_penalty: float = 0.0
    """subtracted from a token's logit for each of its occurrences in the answer so far"""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """token id -> value added to its logit"""
    seed: int | None = None
    """None draws one, which the output tells; the same seed gives the same tokens, whatever else runs"""
    max_tokens: int | None = None
    """tokens to write; None goes on to the end of the context; 0 only reads the prompt"""
    min_tokens: int = 0
    """end-of-sequence and stop tokens are impossible before this many"""
    stop_token_ids: tuple[int, ...] = ()
    """ids that end the answer, besides the model's own end-of-sequence ids"""
    ignore_eos: bool = False
    """go on after the model's own end-of-sequence ids"""
    logprobs: int | None = None
    """report log-probabilities of written tokens, with this many alternatives (0: of the token alone)"""
    prompt_logprobs: int | None = None
    """the same for the prompt's tokens; reads the whole prompt anew, because cached blocks have no hidden states"""
    block_mass: bool = False
    """report how much attention the written tokens give to each block of 64 tokens"""

    def __post_init__(self) -> None:
        """Raises ``InvalidParameter`` for the first value out of its range."""
        _number("temperature", self.temperature, 0, 100)
        _integer("top_k", self.top_k, 0, 2**31 - 1)
        _number("top_p", self.top_p, 0, 1, open_low=True)
        _number("min_p", self.min_p, 0, 1, open_high=True)
        _number("typical_p", self.typical_p, 0, 1, open_low=True)
        _number("repetition_penalty", self.repetition_penalty, 0, 100, open_low=True)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        _optional_integer("seed", self.seed, 0, 2**64 - 1)
        _optional_integer("max_tokens", self.max_tokens, 0, 2**31 - 1)
        _integer("min_tokens", self.min_tokens, 0, 2**31 - 1)
        _optional_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _optional_integer("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        for token_id in self.stop_token_ids:
            _integer("stop_token_ids", token_id, 0, 2**31 - 1)
        for token_id, bias in self.logit_bias.items():
            _integer("logit_bias (a token id)", token_id, 0, 2**31 - 1)
            _number(f"logit_bias[{token_id}]", bias, -100, 100)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidParameter(f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}; lower it")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "SamplingParams":
        """From a mapping, as a command line or a request body gives it; an unknown name raises ``InvalidParameter``."""
        known = [option.name for option in fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise InvalidParameter(f"there is no sampling parameter {name!r}; {hint}")
        return cls(**options)

    @property
    def is_greedy(self) -> bool:
        """True where a token is the arg-max of the logits as the model gave them: no penalty, bias or draw."""
        return self.temperature == 0 and not self.changes_logits

    @property
    def changes_logits(self) -> bool:
        """True where penalties, biases or ``min_tokens`` change the logits before a token is chosen."""
        return bool(
            self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
            or self.min_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A prompt of token ids and how to go on from it. An empty prompt raises ``UsageError``."""

    token_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    grammar: Grammar | None = None
    """the shape of the answer; None: any"""
    pooling: str | None = None
    """"mean" or "last": report the prompt's hidden states, pooled, in ``StepOutput.embedding``"""

    def __post_init__(self) -> None:
        """Raises ``UsageError`` for an empty prompt, ``InvalidParameter`` for what excludes each other."""
        if not self.token_ids:
            raise UsageError("the prompt is empty: a model needs at least one token to go on from; give it some text")
        if self.pooling not in POOLINGS:
            raise InvalidParameter(f"pooling={self.pooling!r} is unknown; there are None, 'mean' and 'last'")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise InvalidParameter(
                f"grammar is a {type(self.grammar).__name__}; it has to be compiled: backends.grammar.compile_shape does that"
            )
        if self.grammar is not None and self.params.ignore_eos:
            raise InvalidParameter(
                "ignore_eos goes on after the end, and an answer in a given shape ends; give one of both"
            )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's log-probability (natural logarithm) under the model, and the likeliest alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability) of the likeliest tokens, best first; as many as were asked for"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request so far."""

    prompt_tokens: int
    cached_tokens: int
    """of the prompt's tokens, those whose keys and values were still in the cache"""
    completion_tokens: int
    cache_miss: str | None = None
    """why the cache served no more of the prompt; None where it served all it could"""
    truncated_tokens: int = 0
    """tokens cut from the prompt because the caller asked for that instead of an error"""
    prompt_keys: KeyCount = NO_KEYS
    """of the prompt's tokens that were computed (again, where the sequence had to give its blocks back)"""
    completion_keys: KeyCount = NO_KEYS
    """of the answer's tokens that were computed: all but the last one"""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one request so far, by the wall clock: other sequences may have run in them."""

    queue: float
    prefill: float
    """from the first step to the first token"""
    decode: float
    """from the first token to the last"""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step did for one sequence."""

    request_id: int
    token_ids: tuple[int, ...]
    """tokens written in this step; () while the prompt is being read"""
    processed: int
    """prompt tokens read so far, those from the cache included"""
    usage: Usage
    timings: Timings
    seed: int
    logprobs: tuple[TokenLogprob, ...] = ()
    """one for each of ``token_ids`` if they were asked for"""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """those of this step's prompt tokens if they were asked for; the prompt's first token has none"""
    finish_reason: FinishReason | None = None
    """None while there is more to come"""
    error: WhimbrelError | None = None
    """what went wrong, for the one who asked to raise; other sequences go on"""
    block_mass: npt.NDArray[np.float32] | None = None
    """[G, blocks] probability mass so far, summed over layers and query heads, of all written tokens but the first; one
    array for the whole request, which later steps go on adding to"""
    embedding: npt.NDArray[np.float32] | None = None
    """[hidden] the prompt's hidden states after the final norm, pooled; on the last output, if ``pooling`` asked for it"""


class Sequence:
    """The engine's state of one request. ``tokens`` is prompt and answer; ``computed`` of them are in the cache."""

    __slots__ = (
        "arrived",
        "blocks",
        "cached",
        "completion_keys",
        "computed",
        "constraint",
        "counts",
        "first_token",
        "hashes",
        "id",
        "last_token",
        "limit",
        "mass",
        "miss",
        "params",
        "pooled",
        "preempted",
        "prompt_keys",
        "prompt_length",
        "reported",
        "scored",
        "seed",
        "seen",
        "slot",
        "started",
        "stops",
        "tokens",
    )

    def __init__(self, id: int, request: Request, *, seed: int, limit: int, stops: frozenset[int], now: float) -> None:
        """``limit`` is the length, prompt and answer, at which the sequence ends; ``stops`` are ids that end it."""
        self.id = id
        self.params = request.params
        self.tokens = list(request.token_ids)
        self.prompt_length = len(self.tokens)
        self.seed = seed
        self.limit = limit
        self.stops = stops
        self.computed = 0
        self.prompt_keys = NO_KEYS
        self.completion_keys = NO_KEYS
        self.cached = 0
        self.miss: str | None = None
        self.preempted = 0
        self.scored = 1
        """prompt positions whose log-probability is known, or doesn't exist (position 0)"""
        self.slot = -1
        """row of the cache's table of blocks; -1 while it waits"""
        self.blocks: list[int] = []
        self.hashes: list[bytes] = []
        self.seen: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        self.pooled = None if request.pooling is None else Pooled(request.pooling)
        self.mass: npt.NDArray[np.float32] | None = None
        """[G, max_blocks] attention that blocks got, where the request asks for it"""
        self.counts: np.ndarray[Any, np.dtype[np.int32]] | None = None
        self.constraint = None if request.grammar is None else Constraint(request.grammar.start())
        self.reported = self.prompt_length
        """tokens that outputs have told of, the prompt's included; fewer than there are while forced ones wait"""
        self.arrived = now
        self.started: float | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None

    @property
    def needs_hidden(self) -> bool:
        """True while hidden states of the prompt are wanted, which cached blocks don't have."""
        scores = self.params.prompt_logprobs is not None and self.scored < self.prompt_length
        return scores or (self.pooled is not None and self.pooled.tokens < self.prompt_length)

    @property
    def remaining(self) -> int:
        """Tokens that the network hasn't seen; 1 in decoding."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        """Tokens written so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def room(self) -> int:
        """Tokens that can still be written."""
        return self.limit - len(self.tokens)

    @property
    def jumps(self) -> bool:
        """True if forced tokens need no pass of their own: nothing is asked that only a pass of each token tells."""
        return self.constraint is not None and self.params.logprobs is None and not self.params.block_mass

    @property
    def ended(self) -> FinishReason | None:
        """Why nothing more is written; None if there is something to write."""
        complete = self.constraint is not None and self.constraint.is_complete(self.generated)
        if self.generated and (complete or self.tokens[-1] in self.stops):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.room <= 0 else None

    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            self.prompt_length,
            self.cached,
            self.reported - self.prompt_length,
            self.miss,
            prompt_keys=self.prompt_keys,
            completion_keys=self.completion_keys,
        )

    def advance(self, count: int, sparse: SparseConfig | None) -> KeyCount:
        """The next ``count`` tokens are in the cache; the keys that they saw."""
        start, stop = self.computed, self.computed + count
        answer = min(max(start, self.prompt_length), stop)
        of_prompt, of_completion = count_keys(start, answer, sparse), count_keys(answer, stop, sparse)
        self.prompt_keys += of_prompt
        self.completion_keys += of_completion
        self.computed = stop
        return of_prompt + of_completion

    def timings(self, now: float) -> Timings:
        """Seconds so far."""
        started = now if self.started is None else self.started
        first = now if self.first_token is None else self.first_token
        last = first if self.last_token is None else self.last_token
        return Timings(started - self.arrived, first - started, last - first)


def _number(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if good:
        assert isinstance(value, (int, float))
        good = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    if not good:
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise InvalidParameter(f"{name}={value!r} is impossible; it is a number in {left}{low}, {high}{right}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidParameter(f"{name}={value!r} is impossible; it is a whole number from {low} to {high}")


def _optional_integer(name: str, value: object, low: int, high: int) -> None:
    if value is not None:
        _integer(name, value, low, high)
