"""Executor: what every backend can do, in token ids. Text lives one level above, in ``llm``.

Evaluation, agents, data generation and the server speak only this. What a backend lacks it refuses with
``UnsupportedCapability`` and the name of an alternative; it never drops an option.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine.request import (
    FinishReason,
    Request,
    SamplingParams,
    StepOutput,
    Timings,
    TokenLogprob,
    Usage,
)

Step = StepOutput
"""What one step did for one request: tokens, progress of the prompt, usage, timings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a backend offers."""

    backend: str
    """its name: "native", "scripted", ..."""
    max_context: int
    """most tokens of one sequence, prompt and answer"""
    max_sequences: int
    """sequences that run at the same time; more wait"""
    vocab_size: int
    logprobs: bool
    prompt_logprobs: bool
    prefix_sharing: bool
    constraints: bool = False
    """answers in a guaranteed shape"""
    speculation: bool = False
    documents: bool = False
    """documents that were read before can be opened"""
    devices: tuple[str, ...] = ("cpu",)
    implementation: str = ""
    """which ops compute: "native", "reference" """
    sparse: SparseConfig | None = None
    """which keys a token sees; None: all of them"""
    warnings: tuple[str, ...] = ()
    """what can make answers worse than this model's best: how it was opened, in one line each"""


class StepStream(Protocol):
    """The steps of one request. ``close`` stops it and frees its memory."""

    def __iter__(self) -> Iterator[Step]: ...

    def __next__(self) -> Step: ...

    def poll(self) -> Step | None:
        """A step that is there already; nothing is computed for it, and nothing waited for.

        None if there is none yet, and after the last one. Raises the request's error as ``__next__`` does.
        """
        ...

    @property
    def ended(self) -> bool:
        """True after the last step was taken, an error raised, the stream closed; of a request that was stopped in
        another way, once ``poll`` or ``__next__`` has found no step left."""
        ...

    @property
    def complete(self) -> bool:
        """True once nothing more will be computed; steps may still be there to take."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Executor(Protocol):
    """Token ids in, token ids out."""

    @property
    def capabilities(self) -> Capabilities:
        """What this backend offers."""
        ...

    def generate(self, request: Request) -> StepStream:
        """Steps of a request, computed while they are iterated; several streams may be open at once.

        Raises ``PromptTooLong``, ``InvalidParameter`` or ``UnsupportedCapability`` at once, not at the first step.
        """
        ...

    def advance(self) -> bool:
        """One step for every open stream, to be taken from them by ``poll``; False if there was nothing to do."""
        ...

    def drive(self, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """While one thread calls ``advance`` again and again, ``__next__`` in others waits for its steps.

        When ``advance`` returns False, that thread may sleep until ``wake`` is called: by any thread, when a request
        comes in, also before the driver sleeps (set an event). After the context, or where it is left by an exception,
        whoever waits goes back to stepping. Raises ``UsageError`` if someone drives already.
        """
        ...

    def score(self, token_ids: Ids[int]) -> list[float]:
        """Natural log-probability of each id but the first, given those before it: ``len(token_ids) - 1`` numbers."""
        ...

    def close(self) -> None:
        """Stop everything and free the memory. Idempotent."""
        ...


__all__ = [
    "Capabilities",
    "Executor",
    "FinishReason",
    "Request",
    "SamplingParams",
    "Step",
    "StepStream",
    "Timings",
    "TokenLogprob",
    "Usage",
]
