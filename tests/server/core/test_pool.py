"""ModelPool: loading on demand, and what goes when there is no room."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel.backends.llm import LLM
from whimbrel.errors import DoesNotFit, ModelNotFound
from whimbrel.server.pool import ModelPool

Scripted = Callable[..., LLM]


class Loads:
    """Makes models, and notes which; says that one doesn't fit beside ``room`` others."""

    def __init__(self, scripted: Scripted, room: int = 9) -> None:
        self.names: list[str] = []
        self.failing: list[Exception] = []
        self.pool: ModelPool | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._scripted = scripted
        self._room = room

    def __call__(self, name: str) -> LLM:
        self.gate.wait(30)
        self.names.append(name)
        if self.failing:
            raise self.failing.pop()
        if self.pool is not None and len(self.pool.residents) >= self._room:
            raise DoesNotFit("no room")
        return self._scripted("hello")


def pool_of(loads: Loads, **settings: Any) -> ModelPool:
    options = {"max_queue": 4, "others": lambda: ["d"], "max_models": None, **settings}
    loads.pool = ModelPool(("a", "b", "c"), loads, **options)
    return loads.pool


async def touch(pool: ModelPool, name: str | None) -> str:
    async with pool.use(name) as resident:
        return resident.name


def run(pool: ModelPool, work: Any) -> Any:
    async def whole() -> Any:
        try:
            return await work
        finally:
            await pool.close()

    return asyncio.run(whole())


def test_many_wait_for_one_load(scripted: Scripted) -> None:
    loads = Loads(scripted)
    pool = pool_of(loads)

    async def work() -> None:
        loads.gate.clear()
        waiting = [asyncio.create_task(touch(pool, "a")) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pool.state("a") == "loading"
        waiting[0].cancel()  # one goes away; the others' load goes on
        loads.gate.set()
        assert await asyncio.gather(*waiting[1:]) == ["a"] * 19

    run(pool, work())
    assert loads.names == ["a"]


def test_names(scripted: Scripted) -> None:
    loads = Loads(scripted)
    pool = pool_of(loads)

    async def work() -> None:
        assert [await touch(pool, name) for name in (None, "", "b:latest", "d")] == ["a", "a", "b", "d"]
        with pytest.raises(ModelNotFound, match="there are a, b, c, d"):
            await touch(pool, "nobody")

    run(pool, work())


@pytest.mark.parametrize(("room", "max_models"), [(2, None), (9, 2)])
def test_the_one_unasked_for_longest_makes_room(scripted: Scripted, room: int, max_models: int | None) -> None:
    pool = pool_of(Loads(scripted, room), max_models=max_models)

    async def work() -> None:
        for name in ("a", "b", "a", "c"):
            await touch(pool, name)
        assert set(pool.residents) == {"a", "c"}

    run(pool, work())


def test_a_model_in_use_stays(scripted: Scripted) -> None:
    pool = pool_of(Loads(scripted, 1))

    async def work() -> None:
        async with pool.use("a"):
            with pytest.raises(DoesNotFit):
                await touch(pool, "b")
            assert not await pool.unload("a")
            await pool.unload_idle(0.0)
            assert set(pool.residents) == {"a"}
        assert await touch(pool, "b") == "b"
        assert set(pool.residents) == {"b"}

    run(pool, work())


def test_keep_alive(scripted: Scripted) -> None:
    pool = pool_of(Loads(scripted))

    async def work() -> None:
        for name in ("a", "b", "c"):
            await touch(pool, name)
        pool.residents["b"].keep_alive = float("inf")
        await pool.unload_idle(None)
        assert set(pool.residents) == {"a", "b", "c"}
        await pool.unload_idle(3600)
        assert set(pool.residents) == {"a", "b", "c"}
        await pool.unload_idle(0)
        assert set(pool.residents) == {"b"}

    run(pool, work())


def test_a_failure_is_told_and_forgotten_after_a_success(scripted: Scripted) -> None:
    loads = Loads(scripted)
    loads.failing = [ValueError("broken file")]
    pool = pool_of(loads)

    async def work() -> None:
        with pytest.raises(Exception, match="."):
            await touch(pool, "a")
        assert "a" in pool.failed
        assert pool.state("a") == "unloaded"
        assert await touch(pool, "a") == "a"
        assert not pool.failed

    run(pool, work())


def test_who_waited_for_a_load_gets_the_model_before_another_load_takes_its_place(scripted: Scripted) -> None:
    pool = pool_of(Loads(scripted), max_models=1)

    async def held(name: str) -> bool:
        async with pool.use(name) as resident:
            return pool.residents.get(name) is resident

    async def work() -> None:
        first, second = await asyncio.gather(held("a"), held("b"), return_exceptions=True)
        assert first is True
        assert second is True or isinstance(second, DoesNotFit)
        assert await held("b")

    run(pool, work())
