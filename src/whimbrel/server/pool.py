"""ModelPool: models are loaded when somebody asks for them, and unloaded when memory is wanted for another.

Lives on the event loop; loading itself runs in a thread. A model that has open answers is never unloaded.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from whimbrel.backends.llm import LLM
from whimbrel.errors import DoesNotFit, ModelNotFound, WhimbrelError
from whimbrel.server.driver import Driver
from whimbrel.server.errors import LoadFailed

log = logging.getLogger(__name__)

Load = Callable[[str], LLM]


@dataclass(slots=True)
class Resident:
    """A model in memory."""

    name: str
    driver: Driver
    users: int = 0
    used: float = field(default_factory=monotonic)
    """when it was last asked, by ``time.monotonic``"""
    loaded: float = field(default_factory=monotonic)
    keep_alive: float | None = None
    """seconds that it stays without being asked; None: as the server was told"""

    @property
    def llm(self) -> LLM:
        """The model."""
        return self.driver.llm


class ModelPool:
    """Models by name."""

    def __init__(
        self,
        names: tuple[str, ...],
        load: Load,
        *,
        max_queue: int,
        others: Callable[[], list[str]],
        max_models: int | None,
    ) -> None:
        """``names``: what is served, the default first. ``others``: further names that may be asked for.

        ``load`` makes a model of a name; it runs in a thread.
        """
        self.names = names
        self.residents: dict[str, Resident] = {}
        """in memory, by name"""
        self.failed: dict[str, str] = {}
        """why a model could not be loaded the last time"""
        self._load = load
        self._others = others
        self._max_queue = max_queue
        self._max_models = max_models
        self._loading: dict[str, asyncio.Task[Resident]] = {}
        self._wanted: Counter[str] = Counter()  # who asks for a model and doesn't have it yet
        self._one_at_a_time = asyncio.Lock()

    def known(self) -> list[str]:
        """Names that may be asked for: what is served first."""
        return list(dict.fromkeys((*self.names, *self._others())))

    def state(self, name: str) -> str:
        """ "loaded", "loading" or "unloaded"."""
        return "loaded" if name in self.residents else "loading" if name in self._loading else "unloaded"

    def find(self, asked: str | None) -> str:
        """The name that is meant: None and "" are the default, Ollama's ``:latest`` is no part of one.

        Raises ``ModelNotFound`` with the names that there are.
        """
        if not asked:
            return self.names[0]
        known = self.known()
        for name in (asked, asked.removesuffix(":latest")):
            if name in known:
                return name
        raise ModelNotFound(f"there is no model {asked!r} here; there are {', '.join(known)}")

    @asynccontextmanager
    async def use(self, asked: str | None) -> AsyncIterator[Resident]:
        """A model that stays in memory for the length of the block; loaded now if need be.

        Raises ``ModelNotFound``, ``DoesNotFit`` and whatever else loading raises.
        """
        resident = await self.hold(asked)
        try:
            yield resident
        finally:
            self.release(resident)

    async def hold(self, asked: str | None) -> Resident:
        """As ``use``, until ``release``."""
        name = self.find(asked)
        self._wanted[name] += 1
        try:
            resident = self.residents.get(name) or await self._loaded(name)
            resident.users += 1
        finally:
            self._wanted[name] -= 1
        resident.used = monotonic()
        return resident

    def release(self, resident: Resident) -> None:
        """The counterpart of ``hold``."""
        resident.users -= 1
        resident.used = monotonic()

    async def unload(self, name: str) -> bool:
        """Free a model's memory; False if it isn't loaded, or somebody uses it. Waits until nothing is being loaded."""
        async with self._one_at_a_time:
            return await self._unload(name)

    async def _unload(self, name: str) -> bool:
        """With the lock held: who asks for it meanwhile loads it again when its memory is free."""
        resident = self.residents.get(name)
        if resident is None or self._in_use(resident):
            return False
        del self.residents[name]
        await resident.driver.close()
        log.info("unloaded %s", name)
        return True

    async def unload_idle(self, keep_alive: float | None) -> None:
        """Unload what nobody has asked for longer than it stays; ``keep_alive``: of models that nobody spoke of."""
        now = monotonic()
        for name, resident in list(self.residents.items()):
            seconds = keep_alive if resident.keep_alive is None else resident.keep_alive
            if seconds is not None and not resident.users and now - resident.used >= seconds:
                await self.unload(name)

    async def close(self) -> None:
        """Unload everything, whoever uses it."""
        for task in self._loading.values():
            task.cancel()
        for resident in list(self.residents.values()):
            await resident.driver.close()
        self.residents.clear()

    async def _loaded(self, name: str) -> Resident:
        """Load, or wait for somebody who does. Whoever waits may leave; loading goes on for the others."""
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load_one(name))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        return await asyncio.shield(task)

    async def _load_one(self, name: str) -> Resident:
        async with self._one_at_a_time:
            while self._max_models is not None and len(self.residents) >= self._max_models:
                if not await self._unload_oldest():
                    raise DoesNotFit(
                        f"{len(self.residents)} models are in use, as many as this server keeps; try {name} again later"
                    )
            started = monotonic()
            llm = await self._load_making_room(name)
            resident = self.residents[name] = Resident(name, Driver(llm, max_queue=self._max_queue))
            log.info("loaded %s in %.1f s", name, monotonic() - started)
            return resident

    async def _load_making_room(self, name: str) -> LLM:
        while True:
            try:
                llm = await asyncio.to_thread(self._load, name)
            except DoesNotFit as error:
                self.failed[name] = str(error)
                if not await self._unload_oldest():
                    raise
            except ModelNotFound:
                raise
            except Exception as error:
                self.failed[name] = str(error)
                log.error("%s can't be loaded: %s", name, error, exc_info=not isinstance(error, WhimbrelError))
                raise LoadFailed(f"{name} can't be loaded: {error}") from error
            else:
                self.failed.pop(name, None)
                return llm

    def _in_use(self, resident: Resident) -> bool:
        """Somebody has it, or waited until it was loaded and has it in a moment."""
        return resident.users > 0 or self._wanted[resident.name] > 0

    async def _unload_oldest(self) -> bool:
        """Unload the model that has been idle longest; False if all are in use."""
        idle = [resident for resident in self.residents.values() if not self._in_use(resident)]
        return bool(idle) and await self._unload(min(idle, key=lambda resident: resident.used).name)
