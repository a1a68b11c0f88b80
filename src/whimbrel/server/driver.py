"""Driver: one thread steps a model's engine and carries what each step wrote to the event loop.

At most one call to the loop per step, however many answers it advanced, and answers that were shown something a moment ago
are left alone: their steps wait, and become one piece later. On two cores a step of a small model lasts 4 ms with both
busy, so all that happens here is taken from the kernels. ``Flow`` is one answer on the loop's side.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from whimbrel.backends.llm import LLM
from whimbrel.backends.results import Completion, Piece
from whimbrel.backends.stream import Stream
from whimbrel.errors import WhimbrelError
from whimbrel.server.errors import Busy, Stopping

log = logging.getLogger(__name__)


EVENT_SECONDS = 0.05
"""Tokens that come within this time travel together: 20 events a second look smooth. Each costs 0.4 ms of a core, half of it
in the kernel of the operating system, and the client's share beside. The first token never waits, nor does the end."""

FEW_ANSWERS = 4
"""Beside more of them each answer's events come as much less often: sixteen make as many events a second as four do."""


class Flow:
    """One answer on its way: an async iterator of lists of pieces.

    The driver's thread appends to ``arrived``; all else belongs to the event loop.
    """

    def __init__(self, driver: "Driver", stream: Stream) -> None:
        """Made by ``Driver.open``."""
        self.stream = stream
        self.arrived: deque[Piece] = deque()
        self.wanted = True
        """the loop waits for the next piece; otherwise it looks by itself before long, and needs no call"""
        self.due = 0.0
        """when there may be another event; the driver's thread's alone"""
        self._driver = driver
        self._error: BaseException | None = None
        self._ended = False
        self._ready = asyncio.Event()

    def __aiter__(self) -> "Flow":
        return self

    async def __anext__(self) -> list[Piece]:
        """What has come since the last time. Raises what the backend raised."""
        while not self.arrived:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            self.wanted = True  # before the second look: the driver appends before it reads this
            if not self.arrived:
                await self._ready.wait()
        return [self.arrived.popleft() for _ in range(len(self.arrived))]

    async def drain(self) -> Completion:
        """The whole answer."""
        async for _ in self:
            pass
        return self.stream.result

    @property
    def result(self) -> Completion:
        """The answer, once the iteration has ended."""
        return self.stream.result

    def cancel(self, error: BaseException | None = None) -> None:
        """Stop the answer before the engine's next step; whoever iterates gets ``error``, or the end. Idempotent."""
        if not self._ended:
            self._driver.cancel(self, error)

    def wake(self, error: BaseException | None, ended: bool) -> None:
        """Called by the driver, on the loop, when something has come that is waited for, and at the end."""
        self._error = self._error or error
        self._ended = self._ended or ended
        self._ready.set()


Change = tuple[Flow, bool, BaseException | None]
"""an answer that joins or leaves, and what its reader is told if it leaves; in the order in which they came"""

Delivery = tuple[Flow, BaseException | None, bool]
"""an answer to wake, what went wrong, whether it has ended"""


class Driver:
    """Owns an ``LLM`` and the thread that steps it."""

    def __init__(self, llm: LLM, *, max_queue: int) -> None:
        """Starts the thread. To be made on the event loop that will be told of pieces."""
        self.llm = llm
        self.open_answers = 0
        """answers that run or wait"""
        self.limit = llm.capabilities.max_sequences + max_queue
        """as many as there may be"""
        self._loop = asyncio.get_running_loop()
        self._changes: deque[Change] = deque()
        self._wake = threading.Event()
        self._stopping = self._over = False
        self._thread = threading.Thread(target=self._run, name=f"driver of {llm.name or llm.source}", daemon=True)
        self._thread.start()

    async def open(self, make: Callable[[LLM], Stream]) -> Flow:
        """Put an answer in line; ``make`` runs in a thread, since a long prompt takes a while to become tokens.

        Raises ``Busy`` where too many wait, and what ``make`` raises.
        """
        if self.open_answers >= self.limit:
            raise Busy(
                f"{self.open_answers} answers run or wait, as many as this server takes on; try again in a moment"
            )
        self.open_answers += 1
        making = asyncio.ensure_future(asyncio.to_thread(make, self.llm))
        try:
            stream = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._unwanted)  # nobody can stop the thread, which keeps the place till then
            raise
        except BaseException:
            self.open_answers -= 1
            raise
        flow = Flow(self, stream)
        self._change(flow, joins=True)
        return flow

    def cancel(self, flow: Flow, error: BaseException | None = None) -> None:
        """Stop an answer; ``error`` is what its reader is told."""
        self._change(flow, joins=False, error=error)

    async def close(self) -> None:
        """Stop the thread and free the model; answers that still run end with an error."""
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        self.llm.close()

    def _change(self, flow: Flow, *, joins: bool, error: BaseException | None = None) -> None:
        self._changes.append((flow, joins, error))
        self._wake.set()
        if self._over:  # perhaps the thread has looked for the last time
            self._end([])

    def _unwanted(self, making: "asyncio.Future[Stream]") -> None:
        """Close what a client had asked for that is gone."""
        self.open_answers -= 1
        if not making.cancelled() and making.exception() is None:
            making.result().close()

    # --- in the driver's thread

    def _run(self) -> None:
        flows: list[Flow] = []
        try:
            with self.llm.executor.drive(self._wake.set):
                while not self._stopping:
                    self._turn(flows)
        except Exception:
            log.exception("the thread that runs %s has failed; start the server again", self.llm.name)
        self._over = True
        self._end(flows)

    def _end(self, flows: list[Flow]) -> None:
        """Nothing is computed any more: whoever waits is told."""
        self._take_changes(flows)
        self._fail(flows, Stopping("the model was unloaded before the answer was complete; ask again"))

    def _turn(self, flows: list[Flow]) -> None:
        """One step, if there is something to do."""
        self._wake.clear()
        self._take_changes(flows)
        try:
            busy = self.llm.executor.advance()
        except Exception as error:
            log.exception("a step failed; every answer that ran in it ends")
            self._fail(flows, error)
            return
        self._deliver(flows, all=not busy)
        if not busy:
            self._wake.wait()

    def _take_changes(self, flows: list[Flow]) -> None:
        """New answers join; cancelled ones leave."""
        gone: list[Delivery] = []
        while self._changes:
            flow, joins, error = self._changes.popleft()
            if joins:
                flows.append(flow)
            elif flow in flows:
                flow.stream.close()
                flows.remove(flow)
                gone.append((flow, error, True))
        self._hand_over(gone)

    def _deliver(self, flows: list[Flow], *, all: bool) -> None:
        """What the last steps left in the streams; ``all``: also where the next event isn't due."""
        now, batch = monotonic(), []
        for flow in flows:
            due = all or now >= flow.due
            if not due and not flow.stream.pressing:
                continue
            error = self._poll(flow)
            ended = error is not None or flow.stream.ended
            if ended or (due and flow.wanted and flow.arrived):
                if any(piece.token_ids for piece in flow.arrived):
                    flow.due = now + EVENT_SECONDS * max(1.0, len(flows) / FEW_ANSWERS)
                flow.wanted = False
                batch.append((flow, error, ended))
        for flow, _, ended in batch:
            if ended:
                flows.remove(flow)
        self._hand_over(batch)

    def _poll(self, flow: Flow) -> BaseException | None:
        """Move what is there of an answer to its reader's side; the error it ends with."""
        try:
            while (piece := flow.stream.poll()) is not None:
                flow.arrived.append(piece)
        except Exception as raised:  # noqa: BLE001  (whoever reads the answer raises it)
            return raised
        if flow.stream.broken_off:  # by a step that failed before this answer was known here
            return WhimbrelError("the answer was broken off; ask again")
        return None

    def _fail(self, flows: list[Flow], error: BaseException) -> None:
        for flow in flows:
            flow.stream.close()
        self._hand_over([(flow, error, True) for flow in flows])
        flows.clear()

    def _hand_over(self, batch: list[Delivery]) -> None:
        if batch:
            try:
                self._loop.call_soon_threadsafe(self._take, batch)
            except RuntimeError:  # the loop has been closed: nobody is left to tell
                self._stopping = True

    # --- on the event loop

    def _take(self, batch: list[Delivery]) -> None:
        for flow, error, ended in batch:
            if ended:
                self.open_answers -= 1
            flow.wake(error, ended)
