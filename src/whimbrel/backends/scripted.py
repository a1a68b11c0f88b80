"""A backend that says what it was told to: for tests of everything above ``Executor``.

It checks requests as the engine does, counts tokens, reports progress and notices a stream that nobody closed.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from weakref import WeakValueDictionary

from whimbrel.backends.executor import (
    Capabilities,
    FinishReason,
    Request,
    Step,
    Timings,
    TokenLogprob,
    Usage,
)
from whimbrel.errors import PromptTooLong, UsageError

Script = Callable[[Request], Sequence[int]]
"""Prompt and parameters to the ids of the answer, the end token included if there is one"""


class ScriptedExecutor:
    """An ``Executor`` whose answers are given: a list of ids for each request in turn, or a function."""

    def __init__(
        self,
        answers: Script | Sequence[Sequence[int]],
        *,
        max_context: int = 4096,
        vocab_size: int = 320,
        eos_token_ids: Sequence[int] = (2, 4),
        prefill_chunk: int = 512,
    ) -> None:
        """A sequence of answers starts over when it is used up."""
        self._answers = answers
        self._eos = frozenset(eos_token_ids)
        self._prefill_chunk = prefill_chunk
        self.requests: list[Request] = []
        """every request so far"""
        self.open_streams = 0
        self.closed = False
        self._lock = RLock()
        self._streams: WeakValueDictionary[int, ScriptedSteps] = WeakValueDictionary()
        self._wake: Callable[[], None] | None = None
        self.capabilities = Capabilities(
            backend="scripted",
            max_context=max_context,
            max_sequences=1024,
            vocab_size=vocab_size,
            logprobs=True,
            prompt_logprobs=True,
            prefix_sharing=False,
        )

    def generate(self, request: Request) -> "ScriptedSteps":
        """See ``Executor.generate``. Each token has probability 1/2."""
        length, room = len(request.token_ids), self.capabilities.max_context - len(request.token_ids)
        if room < (request.params.max_tokens or 0) or room < 0:
            raise PromptTooLong(
                f"the prompt has {length} tokens and the context holds {self.capabilities.max_context}; shorten it"
            )
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            answer = self._answers(request) if callable(self._answers) else self._answers[number % len(self._answers)]
            limit = room if request.params.max_tokens is None else request.params.max_tokens
            steps = self._steps(number, request, list(answer)[:limit], cut=len(answer) >= limit)
            stream = self._streams[number] = ScriptedSteps(steps, self._lock)
        if self._wake is not None:
            self._wake()
        return stream

    def advance(self) -> bool:
        """See ``Executor.advance``."""
        with self._lock:
            return sum(stream.compute() for stream in list(self._streams.values())) > 0

    @contextmanager
    def drive(self, wake: Callable[[], None]) -> Iterator[None]:
        """See ``Executor.drive``. Threads that ask for steps don't wait here: they cost nothing."""
        if self._wake is not None:
            raise UsageError("this model is driven by another thread already; one driver is enough")
        self._wake = wake
        try:
            yield
        finally:
            self._wake = None

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Every token has probability 1/2."""
        return [-0.6931471805599453] * (len(token_ids) - 1)

    def close(self) -> None:
        """Notes that it was called."""
        self.closed = True

    def _steps(self, number: int, request: Request, answer: list[int], *, cut: bool) -> Generator[Step, None, None]:
        prompt, params = len(request.token_ids), request.params
        self.open_streams += 1
        try:
            for processed in range(self._prefill_chunk, prompt, self._prefill_chunk):
                yield self._step(number, request, (), processed, 0, None)
            if not answer:
                yield self._step(number, request, (), prompt, 0, FinishReason.LENGTH)
            for count, token in enumerate(answer, 1):
                stops = token in params.stop_token_ids or (token in self._eos and not params.ignore_eos)
                last = FinishReason.LENGTH if cut else FinishReason.STOP
                reason = FinishReason.STOP if stops else last if count == len(answer) else None
                yield self._step(number, request, (token,), prompt, count, reason)
                if reason is not None:
                    return
        finally:
            self.open_streams -= 1

    def _step(
        self,
        number: int,
        request: Request,
        tokens: tuple[int, ...],
        processed: int,
        written: int,
        reason: FinishReason | None,
    ) -> Step:
        asked = request.params.logprobs is not None
        return Step(
            request_id=number,
            token_ids=tokens,
            processed=processed,
            usage=Usage(len(request.token_ids), 0, written),
            timings=Timings(0.0, 0.0, 0.0),
            seed=request.params.seed or 0,
            logprobs=tuple(TokenLogprob(token, -0.6931471805599453) for token in tokens) if asked else (),
            finish_reason=reason,
        )


class ScriptedSteps:
    """The steps of one request."""

    def __init__(self, steps: Generator[Step, None, None], lock: RLock) -> None:
        """Made by ``ScriptedExecutor.generate``."""
        self._steps = steps
        self._lock = lock
        self._ready: deque[Step] = deque()
        self._complete = False
        self._ended = False

    def compute(self) -> bool:
        """Make the next step ready; False if there is none."""
        with self._lock:
            step = None if self._complete else next(self._steps, None)
            if step is None:
                self._complete = True
                return False
            self._ready.append(step)
            if step.finish_reason is not None:
                self._complete = True
                self._steps.close()
            return True

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        """The next step."""
        with self._lock:
            if not self._ready and not self._ended:
                self.compute()
            step = self.poll()
        if step is None:
            raise StopIteration
        return step

    def poll(self) -> Step | None:
        """See ``StepStream.poll``."""
        with self._lock:
            step = self._ready.popleft() if self._ready and not self._ended else None
            self._ended |= self._complete if step is None else step.finish_reason is not None
            return step

    @property
    def ended(self) -> bool:
        """See ``StepStream.ended``."""
        return self._ended

    @property
    def complete(self) -> bool:
        """See ``StepStream.complete``."""
        return self._ended or self._complete

    def close(self) -> None:
        """Stop; the rest of the script is not said."""
        with self._lock:
            self._ended = self._complete = True
            self._steps.close()
