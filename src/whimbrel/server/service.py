"""Service: everything that routes share: the models, the limits, the counters. One per application."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import time
from typing import Any, Self

from whimbrel.backends.llm import LLM
from whimbrel.backends.native import NativeExecutor
from whimbrel.backends.results import Completion
from whimbrel.backends.stream import Stream
from whimbrel.engine import EngineStats
from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.server.errors import Stopping
from whimbrel.server.files import Files
from whimbrel.server.job import Answer, Job, Read
from whimbrel.server.loading import other_names, usual_load
from whimbrel.server.metrics import Metrics
from whimbrel.server.pool import Load, ModelPool, Resident
from whimbrel.server.settings import ServerSettings

SWEEP_SECONDS = 1.0
"""How often idle models are looked for."""

MOST_ANSWERS = 128
"""Most answers to one prompt; OpenAI's own limit."""


class Service:
    """Opens answers, and knows whether the server is ready."""

    def __init__(self, settings: ServerSettings, load: Load | None = None) -> None:
        """``load`` makes a model of a name; None: from the store, or a path, with the settings' options."""
        self.settings = settings
        self.metrics = Metrics(self)
        self.pool = ModelPool(
            settings.models,
            load or usual_load(settings),
            max_queue=settings.max_queue,
            others=other_names,
            max_models=settings.max_models,
        )
        self.started = int(time())
        """unix time"""
        self.files = Files(self.pool, settings.files)
        self.stopping = False
        self._first: asyncio.Task[None] | None = None
        self._answers: set[Answer] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From start to stop: the first model begins to load at once, idle ones are unloaded, all are in the end."""
        self._first = asyncio.create_task(self._load_first())
        sweep = asyncio.create_task(self._sweep())
        await self.files.start()
        try:
            yield
        finally:
            self.stopping = True
            for task in (self._first, sweep):
                task.cancel()
            for answer in list(self._answers):
                answer.close()
            await self.files.close()
            await self.pool.close()

    @property
    def ready(self) -> bool:
        """True once the first model is there, until the server stops."""
        return bool(self._first and self._first.done()) and not self.stopping and self.load_error is None

    @property
    def load_error(self) -> str | None:
        """Why the first model could not be loaded, as long as no attempt has succeeded."""
        return self.pool.failed.get(self.pool.names[0])

    @property
    def open_answers(self) -> int:
        """Answers that run or wait."""
        return len(self._answers)

    def end_answers(self) -> None:
        """Tell whoever still waits for an answer that the server stops."""
        for answer in list(self._answers):
            answer.flow.cancel(Stopping("the server was stopped before the answer was complete; ask again"))

    def stats(self) -> dict[str, EngineStats]:
        """Counters and gauges of each engine by model."""
        found = {}
        for name, resident in list(self.pool.residents.items()):
            executor = resident.llm.executor
            if isinstance(executor, NativeExecutor):
                with suppress(UsageError):  # unloaded just now
                    found[name] = executor.stats
        return found

    async def open(self, *jobs: Job) -> "Answers":
        """Start the answers of one request's jobs, one after the other; use them in an ``async with``.

        Raises ``InvalidParameter`` for more answers than the server ever takes on, ``Busy``, ``Stopping``, what
        ``ModelPool.use`` and ``LLM.stream`` raise; nothing is left open then.
        """
        if self.stopping:
            raise Stopping("this server is being stopped; ask another, or again in a minute")
        for job in jobs:
            if not 1 <= job.n <= MOST_ANSWERS:
                raise InvalidParameter(f"n={job.n} is impossible; it is a number from 1 to {MOST_ANSWERS}")
        answers, wanted = Answers(), sum(job.n for job in jobs)
        try:
            for job in jobs:
                for index in range(job.n):
                    answers.append(await self._open_one(job, index, wanted))
        except BaseException:
            answers.close()
            raise
        return answers

    async def _open_one(self, job: Job, index: int, wanted: int) -> Answer:
        """``wanted``: how many its request wants together."""
        resident = await self.pool.hold(job.model)
        key: tuple[str, ...] | None = None
        try:
            if wanted > (most := resident.driver.limit):
                raise InvalidParameter(
                    f"{wanted} answers in one request; this server has room for {most}: ask for fewer at a time, or "
                    "start it with a larger --max-queue"
                )
            read = None
            if job.files:
                key = await self.files.attach(resident, job.files)
                read = Read(document=self.files.document(key), files=job.files, passages=job.passages)
            flow = await resident.driver.open(_opener(job, index, read))
        except BaseException:
            self._release(resident, key)
            raise
        answer = Answer(flow, resident, partial(self._forget, key), read)
        self._answers.add(answer)
        return answer

    def _release(self, resident: Resident, key: tuple[str, ...] | None) -> None:
        if key is not None:
            self.files.detach(key)
        self.pool.release(resident)

    def _forget(self, key: tuple[str, ...] | None, answer: Answer) -> None:
        self._answers.discard(answer)
        self._release(answer.resident, key)
        self.metrics.note(answer)

    async def _load_first(self) -> None:
        """A model that can't be loaded makes an unready server, which says why to whoever asks for it."""
        with suppress(Exception):
            async with self.pool.use(None):
                pass

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.pool.unload_idle(self.settings.keep_alive)


class Answers(list[Answer]):
    """The answers of one job; an async context manager that closes them."""

    async def complete(self) -> list[Completion]:
        """All of them, whole. Raises what the first failing one raises."""
        return list(await asyncio.gather(*(answer.flow.drain() for answer in self)))

    def close(self) -> None:
        """Stop what still runs."""
        for answer in self:
            answer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _opener(job: Job, index: int, read: Read | None) -> Callable[[LLM], Stream]:
    options: Mapping[str, Any] = job.options
    if read is not None:
        options = {**options, "document": read.document, "block_mass": read.passages > 0}
    if index and options.get("seed") is not None:
        options = {**options, "seed": options["seed"] + index}

    def make(llm: LLM) -> Stream:
        try:
            return llm.stream(job.prompt, **options)
        except InvalidParameter as error:
            if error.parameter == "shape":
                error.parameter = job.shape_field
            raise

    return make
