"""Driver: one thread steps, the event loop reads; whatever happens, every reader hears how it ends and no place is lost."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from typing import Any

import pytest

from whimbrel.backends.llm import LLM
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.backends.stream import Stream
from whimbrel.errors import UsageError
from whimbrel.server.driver import Driver, Flow
from whimbrel.server.errors import Busy, Stopping

Scripted = Callable[..., LLM]

LONG = "x" * 500


class Gated(ScriptedExecutor):
    """Computes as many steps as it was allowed; ``failing``: what its next step raises."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.allowed = threading.Semaphore(0)
        self.failing: list[BaseException] = []

    def advance(self) -> bool:
        if self.failing:
            raise self.failing.pop()
        waiting = any(not stream._complete for stream in list(self._streams.values()))
        return super().advance() if waiting and self.allowed.acquire(blocking=False) else False

    def allow(self, steps: int) -> None:
        """They come when the driver is woken; in a test as in the engine somebody does that."""
        for _ in range(steps):
            self.allowed.release()
        assert self._wake is not None
        self._wake()


def run(llm: LLM, work: Callable[[Driver], Coroutine[Any, Any, None]], max_queue: int = 8) -> None:
    """A driver for the length of ``work``; nothing may be left open behind it."""

    async def whole() -> None:
        driver = Driver(llm, max_queue=max_queue)
        try:
            await asyncio.wait_for(work(driver), 30)
            assert driver.open_answers == 0
            assert _executor(llm).open_streams == 0
        finally:
            await driver.close()

    asyncio.run(whole())


def _executor(llm: LLM) -> ScriptedExecutor:
    assert isinstance(llm.executor, ScriptedExecutor)
    return llm.executor


def say(**options: Any) -> Callable[[LLM], Stream]:
    return lambda llm: llm.stream("Hi", **options)


async def until(condition: Callable[[], bool]) -> None:
    """The test's own time limit ends it."""
    while not condition():
        await asyncio.sleep(0.001)


async def text_of(flow: Flow) -> str:
    return "".join([piece.text async for pieces in flow for piece in pieces])


def test_many_answers_come_whole_and_in_order(scripted: Scripted) -> None:
    texts = [f"answer {number} " + "abc" * number for number in range(40)]
    llm = scripted(*texts)

    async def work(driver: Driver) -> None:
        flows = [await driver.open(say()) for _ in texts]
        assert await asyncio.gather(*map(text_of, flows)) == texts
        assert [flow.result.text for flow in flows] == texts

    run(llm, work, max_queue=100)


def test_what_comes_soon_after_travels_together_and_the_end_waits_for_nothing(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At steps of their own: the first token goes at once, the rest when an event is due; a busy engine never stops."""
    monkeypatch.setattr("whimbrel.server.driver.EVENT_SECONDS", 30.0)
    llm = scripted("many words", LONG * 100)

    async def work(driver: Driver) -> None:
        flow, busy = await driver.open(say()), await driver.open(say())
        pieces = [pieces async for pieces in flow]
        assert "".join(piece.text for some in pieces for piece in some) == "many words"
        assert len(pieces) <= 2  # the reader may have been slower than all of them
        assert sum(len(some) for some in pieces) < len("many words")  # several steps are one piece
        assert not busy.stream.ended
        busy.cancel()
        await text_of(busy)

    run(llm, work)


def test_an_answer_with_stop_strings_ends_at_its_step(scripted: Scripted) -> None:
    llm = scripted("one. two", kind=Gated)

    async def work(driver: Driver) -> None:
        flow = await driver.open(say(stop=["."]))
        _gated(llm).allow(20)
        assert await text_of(flow) == "one"
        assert len(flow.result.token_ids) == 4

    run(llm, work)


def test_a_cancelled_answer_leaves_and_the_others_go_on(scripted: Scripted) -> None:
    llm = scripted(LONG, "second", kind=Gated)

    async def work(driver: Driver) -> None:
        first, second = await driver.open(say()), await driver.open(say())
        _gated(llm).allow(3)
        await anext(first)
        first.cancel()
        first.cancel()
        _gated(llm).allow(10)
        assert await text_of(second) == "second"
        assert len(await text_of(first)) <= 3
        assert first.stream.broken_off

    run(llm, work)


def test_whoever_cancels_can_say_why(scripted: Scripted) -> None:
    llm = scripted(LONG, kind=Gated)

    async def work(driver: Driver) -> None:
        flow = await driver.open(say())
        _gated(llm).allow(3)
        await anext(flow)
        flow.cancel(Stopping("the end"))
        with pytest.raises(Stopping, match="the end"):
            await text_of(flow)

    run(llm, work)


def test_no_cancel_is_lost_however_early_it_comes(scripted: Scripted) -> None:
    """The thread may look for new answers between the two."""
    llm = scripted(LONG, kind=Gated)

    async def work(driver: Driver) -> None:
        for _ in range(200):
            flow = await driver.open(say())
            flow.cancel()
            assert not await text_of(flow)

    run(llm, work)


def test_a_client_that_leaves_while_its_prompt_is_tokenized_gets_no_answer(scripted: Scripted) -> None:
    llm = scripted(LONG)
    entered, go = threading.Event(), threading.Event()

    def slowly(llm: LLM) -> Stream:
        entered.set()
        go.wait(30)
        return llm.stream("Hi")

    async def work(driver: Driver) -> None:
        opening = asyncio.create_task(driver.open(slowly))
        await until(entered.is_set)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert driver.open_answers == 1  # its thread works on, so its place isn't free yet
        go.set()
        await until(lambda: driver.open_answers == 0)

    run(llm, work)


def test_what_making_a_stream_raises_is_raised(scripted: Scripted) -> None:
    llm = scripted("hello")

    async def work(driver: Driver) -> None:
        with pytest.raises(UsageError):
            await driver.open(say(temperature=-1.0))
        assert await text_of(await driver.open(say())) == "hello"

    run(llm, work)


def test_a_step_that_fails_ends_the_answers_in_it_and_no_later_one(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    llm = scripted("one", "two", "three", kind=Gated)

    async def work(driver: Driver) -> None:
        flows = [await driver.open(say()) for _ in range(2)]
        _gated(llm).failing.append(ArithmeticError("a broken kernel"))
        _gated(llm).allow(0)
        for flow in flows:
            with pytest.raises(ArithmeticError):
                await text_of(flow)
        later = await driver.open(say())
        _gated(llm).allow(10)
        assert await text_of(later) == "three"

    run(llm, work)
    assert [record for record in caplog.records if record.levelno == logging.ERROR]


def test_an_error_of_one_answer_is_its_own(scripted: Scripted) -> None:
    llm = scripted("first", "second")

    def failing(llm: LLM) -> Stream:
        stream = llm.stream("Hi")
        poll = stream._steps.poll
        words = iter("fi")

        def breaks() -> Any:
            step = poll()
            if step is not None and next(words, None) is None:
                raise ValueError("no such token")
            return step

        stream._steps.poll = breaks  # type: ignore[method-assign]
        return stream

    async def work(driver: Driver) -> None:
        first, second = await driver.open(failing), await driver.open(say())
        assert await text_of(second) == "second"
        seen = ""
        with pytest.raises(ValueError, match="no such token"):
            async for pieces in first:
                seen += "".join(piece.text for piece in pieces)
        assert seen == "fi"

    run(llm, work)


def test_no_more_than_the_queue_holds(scripted: Scripted) -> None:
    llm = scripted("hello", kind=Gated)

    async def work(driver: Driver) -> None:
        flows = [await driver.open(say()) for _ in range(driver.limit)]
        with pytest.raises(Busy):
            await driver.open(say())
        flows.pop().cancel()
        await until(lambda: driver.open_answers < driver.limit)
        flows.append(await driver.open(say()))
        _gated(llm).allow(10)
        assert set(await asyncio.gather(*map(text_of, flows))) == {"hello"}

    executor_limit = _executor(llm).capabilities.max_sequences
    assert executor_limit == 1024
    run(llm, work, max_queue=4 - executor_limit)


def test_unloading_tells_whoever_still_reads(scripted: Scripted) -> None:
    llm = scripted(LONG, kind=Gated)

    async def work(driver: Driver) -> None:
        flow = await driver.open(say())
        reading = asyncio.create_task(text_of(flow))
        _gated(llm).allow(5)
        await driver.close()
        with pytest.raises(Stopping, match="unloaded"):
            await reading
        late = await driver.open(say())
        with pytest.raises(Stopping, match="unloaded"):
            await text_of(late)
        late.cancel()
        await until(lambda: driver.open_answers == 0)

    run(llm, work)


class Undriveable(ScriptedExecutor):
    """Nobody can drive it."""

    @contextmanager
    def drive(self, wake: Callable[[], None]) -> Any:
        raise RuntimeError("no")
        yield


def test_a_thread_that_dies_leaves_nobody_waiting(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    async def work(driver: Driver) -> None:
        for _ in range(3):
            with pytest.raises(Stopping):
                await text_of(await driver.open(say()))
        await until(lambda: driver.open_answers == 0)

    run(scripted("hello", kind=Undriveable), work)
    assert "start the server again" in caplog.text


def _gated(llm: LLM) -> Gated:
    assert isinstance(llm.executor, Gated)
    return llm.executor
