"""The engine behind ``Executor``.

There is no thread in the background. Whoever asks for a step that isn't there yet steps the engine for everyone; the
others find their steps in their inbox. So one thread needs no switch, and many threads batch. A server prefers one
thread that calls ``advance`` again and again (``drive``): the others wait for their steps then.

Python's locks aren't fair: a thread that takes one again at once leaves the waiting ones behind. So there are two. Who
wants the engine between two steps holds the gate while it waits; who is about to step goes through the gate first, and
lines up behind those that wait there. Nobody waits for more than two steps and the turns of others. (Plain locks and no
counters, because ``with`` takes them without a gap: Ctrl-C can't leave one locked.)
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Lock, get_ident

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
        self._gate = Lock()
        self._inboxes: dict[int, Inbox] = {}
        self._abandoned: deque[int] = deque()
        self._news = Condition()
        """notified after each step of a driver, and when a stream or the executor is closed"""
        self._wake: Callable[[], None] | None = None
        self._driver: int | None = None
        """the thread that called ``advance`` last"""
        self.capabilities = Capabilities(
            backend="native",
            max_context=engine.max_context,
            max_sequences=engine.max_sequences,
            vocab_size=engine.config.vocab_size,
            logprobs=True,
            prompt_logprobs=True,
            prefix_sharing=engine.prefix_sharing,
            constraints=True,
            documents=engine.prefix_sharing and implementation == "native",
            implementation=implementation,
            sparse=engine.config.sparse,
            warnings=warnings,
        )

    def generate(self, request: Request) -> "NativeSteps":
        """See ``Executor.generate``."""
        with self._gate, self._lock:
            id = self._running().add(request)
            inbox = self._inboxes[id] = deque()
            wake = self._wake
        if wake is not None:
            wake()
        return NativeSteps(self, id, inbox)

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """See ``Executor.score``."""
        params = SamplingParams(max_tokens=0, prompt_logprobs=0)
        steps = self.generate(Request(token_ids=tuple(token_ids), params=params))
        return [score.logprob for step in steps for score in step.prompt_logprobs]

    def advance(self) -> bool:
        """See ``Executor.advance``. After an exception (Ctrl-C) it can be called again."""
        self._driver = get_ident()
        with self._gate:
            pass
        with self._lock:
            found = self._step()
        with self._news:
            self._news.notify_all()
        return found

    @contextmanager
    def drive(self, wake: Callable[[], None]) -> Iterator[None]:
        """See ``Executor.drive``."""
        with self._gate, self._lock:
            self._running()
            if self._wake is not None:
                raise UsageError("this model is driven by another thread already; one driver is enough")
            self._wake, self._driver = wake, None
        try:
            yield
        finally:
            self._wake = None
            with self._gate, self._lock:
                self._sweep()
            self._tell()

    def close(self) -> None:
        """See ``Executor.close``."""
        with self._gate, self._lock:
            self._engine = None
            self._inboxes.clear()
        self._tell()

    @property
    def is_closed(self) -> bool:
        """True after ``close``."""
        return self._engine is None

    @contextmanager
    def exclusive(self) -> Iterator[Engine]:
        """The engine between two steps: nobody else uses it meanwhile."""
        with self._gate, self._lock:
            yield self._running()

    @property
    def stats(self) -> EngineStats:
        """Counters and gauges of the engine: of this moment, which may lie in the middle of a step. Waits for nobody."""
        return self._running().stats

    @property
    def trace(self) -> Trace:
        """Spans of the latest steps."""
        return self._running().trace

    def _running(self) -> Engine:
        if self._engine is None:
            raise UsageError("this model has been closed; load it again")
        return self._engine

    def _await(self, id: int, inbox: Inbox) -> bool:
        """Something for this request in ``inbox``, computed by whoever steps; False if the request was stopped."""
        if self._wake is None or self._driver == get_ident():
            return self._advance(id, inbox)
        with self._news:
            self._news.wait_for(lambda: inbox or self._wake is None or not self._runs(id))
        return bool(inbox) or self._runs(id)

    def _runs(self, id: int) -> bool:
        """True until the last step of a request is in its inbox, or the request was stopped."""
        return bool(self._running()) and id in self._inboxes

    def _advance(self, id: int, inbox: Inbox) -> bool:
        """Step the engine, unless someone else did and left something in ``inbox``; False if the request was stopped."""
        with self._gate:
            pass
        with self._lock:
            if inbox:
                return True
            self._sweep()
            if not self._runs(id):
                return False
            self._step()
            return True

    def _step(self) -> bool:
        """One step, its outputs into the inboxes; False if there was nothing to do. With the lock held."""
        engine = self._running()
        self._sweep()
        if engine.is_idle:
            return False
        for output in engine.step():
            self._inboxes[output.request_id].append(output)
            if output.finish_reason is not None:
                del self._inboxes[output.request_id]
        return True

    def _abandon(self, id: int) -> None:
        """Stop a request: now, or before a driver's next step."""
        if id not in self._inboxes:
            return
        self._abandoned.append(id)
        if self._wake is None or self._driver == get_ident():
            with self._gate, self._lock:
                self._sweep()
            self._tell()

    def _abandon_later(self, id: int) -> None:
        """Stop a request now if nobody has the lock, or else before the next step."""
        if id not in self._inboxes:
            return
        self._abandoned.append(id)
        if self._lock.acquire(blocking=False):
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

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()


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
            if not self._executor._await(self._id, self._inbox):
                self._ended = True
                raise StopIteration
        return self._take()

    def poll(self) -> Step | None:
        """See ``StepStream.poll``."""
        if self._ended:
            return None
        runs = self._executor._runs(self._id)  # asked before the inbox is: the last step is there when this is False
        if self._inbox:
            return self._take()
        self._ended = not runs
        return None

    @property
    def ended(self) -> bool:
        """See ``StepStream.ended``."""
        return self._ended

    @property
    def complete(self) -> bool:
        """See ``StepStream.complete``."""
        return self._ended or not self._executor._runs(self._id)

    def close(self) -> None:
        """Stop the request if it runs still: at once, or before the next step where a driver computes one right now."""
        self._ended = True
        self._executor._abandon(self._id)

    def _take(self) -> Step:
        step = self._inbox.popleft()
        if step.finish_reason is not None:
            self._ended = True
            if step.error is not None:
                raise step.error
        return step

    def __del__(self) -> None:
        # The garbage collector may call this inside a step, in the very thread that holds the lock.
        self._executor._abandon_later(self._id)
