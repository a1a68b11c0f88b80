"""The engine behind ``Executor``.

There is no thread in the background. Whoever asks for a step that isn't there yet takes the lock and steps the engine
for everyone; the others find their steps in their inbox. So one thread needs no switch, and many threads batch.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from whimbrel.backends.executor import Capabilities, Request, SamplingParams, Step
from whimbrel.engine import Engine, EngineStats
from whimbrel.engine.trace import Trace
from whimbrel.errors import UsageError

Inbox = deque[Step]


class NativeExecutor:
    """An ``Executor`` over one ``Engine``; safe to use from several threads."""

    def __init__(self, engine: Engine, *, implementation: str = "native", warnings: tuple[str, ...] = ()) -> None:
        """Owns the engine from now on. ``warnings``: see ``Capabilities``."""
        self._engine: Engine | None = engine
        self._lock = Lock()
        self._inboxes: dict[int, Inbox] = {}
        self._abandoned: deque[int] = deque()
        self.capabilities = Capabilities(
            backend="native",
            max_context=engine.max_context,
            max_sequences=engine.max_sequences,
            vocab_size=engine.config.vocab_size,
            logprobs=True,
            prompt_logprobs=True,
            prefix_sharing=engine.prefix_sharing,
            documents=engine.prefix_sharing and implementation == "native",
            implementation=implementation,
            sparse=engine.config.sparse,
            warnings=warnings,
        )

    def generate(self, request: Request) -> "NativeSteps":
        """See ``Executor.generate``."""
        with self._lock:
            id = self._running().add(request)
            inbox = self._inboxes[id] = deque()
        return NativeSteps(self, id, inbox)

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """See ``Executor.score``."""
        params = SamplingParams(max_tokens=0, prompt_logprobs=0)
        steps = self.generate(Request(token_ids=tuple(token_ids), params=params))
        return [score.logprob for step in steps for score in step.prompt_logprobs]

    def close(self) -> None:
        """See ``Executor.close``."""
        with self._lock:
            self._engine = None
            self._inboxes.clear()

    @property
    def is_closed(self) -> bool:
        """True after ``close``."""
        return self._engine is None

    @contextmanager
    def exclusive(self) -> Iterator[Engine]:
        """The engine between two steps: nobody else uses it meanwhile."""
        with self._lock:
            yield self._running()

    @property
    def stats(self) -> EngineStats:
        """Counters and gauges of the engine."""
        with self._lock:
            return self._running().stats

    @property
    def trace(self) -> Trace:
        """Spans of the latest steps."""
        return self._running().trace

    def _running(self) -> Engine:
        if self._engine is None:
            raise UsageError("this model has been closed; load it again")
        return self._engine

    def _advance(self, id: int, inbox: Inbox) -> bool:
        """Step the engine, unless someone else did and left something in ``inbox``; False if the request was stopped."""
        with self._lock:
            if inbox:
                return True
            self._sweep()
            if self._running() and id not in self._inboxes:
                return False
            for output in self._running().step():
                self._inboxes[output.request_id].append(output)
                if output.finish_reason is not None:
                    del self._inboxes[output.request_id]
            return True

    def _abandon(self, id: int, *, wait: bool) -> None:
        """Stop a request: now, or (if the lock is taken and we may not ``wait``) before the next step."""
        self._abandoned.append(id)
        if self._lock.acquire(blocking=wait):
            try:
                self._sweep()
            finally:
                self._lock.release()

    def _sweep(self) -> None:
        """Stop what was abandoned; with the lock held."""
        while self._abandoned:
            id = self._abandoned.popleft()
            if self._inboxes.pop(id, None) is not None and self._engine is not None:
                self._engine.abort(id)


class NativeSteps:
    """The steps of one request, computed on demand."""

    def __init__(self, executor: NativeExecutor, id: int, inbox: Inbox) -> None:
        """Made by ``NativeExecutor.generate``."""
        self._executor = executor
        self._id = id
        self._inbox = inbox
        self._ended = False

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        """The next step. Raises the request's error if it has failed."""
        if self._ended:
            raise StopIteration
        while not self._inbox:
            if not self._executor._advance(self._id, self._inbox):
                raise StopIteration
        step = self._inbox.popleft()
        if step.finish_reason is not None:
            self._ended = True
            if step.error is not None:
                raise step.error
        return step

    def close(self) -> None:
        """Stop the request if it runs still."""
        self._ended = True
        self._executor._abandon(self._id, wait=True)

    def __del__(self) -> None:
        # The garbage collector may call this inside a step, in the very thread that holds the lock.
        self._executor._abandon(self._id, wait=False)
