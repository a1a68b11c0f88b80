"""Processes on this machine. The plan, with a classifier's table in it, is loaded once and shared by forking."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from whimbrel.data.running.plan import Plan
from whimbrel.data.running.run import Task
from whimbrel.data.running.tally import Tally
from whimbrel.errors import WhimbrelError

_PLAN: Plan | None = None
_COUNT: Any = None
_POLL = 0.5
"""seconds between looks at how many documents the workers have read"""


class LocalRunner:
    """``workers`` processes; one works in this process, which debuggers and small inputs like."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1

    def map(
        self, task: Task, plan: Plan, arguments: Sequence[tuple[Any, ...]], on_done: Callable[[int, int], None]
    ) -> list[Tally]:
        """See ``Runner.map``. Raises WhimbrelError when a worker was killed; what it had finished stays finished."""
        if self.workers == 1 or len(arguments) == 1:
            results = []
            for index, argument in enumerate(arguments):
                results.append(task(plan, *argument, lambda count: on_done(-1, count)))
                on_done(index, 0)
            return results
        return self._processes(task, plan, arguments, on_done)

    def _processes(
        self, task: Task, plan: Plan, arguments: Sequence[tuple[Any, ...]], on_done: Callable[[int, int], None]
    ) -> list[Tally]:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        count = context.Value("q", 0)
        told = 0
        with ProcessPoolExecutor(
            min(self.workers, len(arguments)), mp_context=context, initializer=_start, initargs=(plan, count)
        ) as pool:
            futures: dict[Future[Tally], int] = {
                pool.submit(_do, task, argument): index for index, argument in enumerate(arguments)
            }
            waiting = set(futures)
            try:
                while waiting:
                    done, waiting = wait(waiting, _POLL, FIRST_COMPLETED)
                    seen = int(count.value)
                    on_done(-1, seen - told)
                    told = seen
                    for future in done:
                        future.result()
                        on_done(futures[future], 0)
            except BrokenProcessPool as error:
                raise WhimbrelError(
                    "a worker was killed, perhaps for want of memory; finished files stay, and the same command goes on "
                    "from there (try fewer --workers)"
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]


def _start(plan: Plan, count: Any) -> None:
    global _PLAN, _COUNT
    _PLAN, _COUNT = plan, count


def _do(task: Task, argument: tuple[Any, ...]) -> Tally:
    def on_batch(count: int) -> None:
        with _COUNT.get_lock():
            _COUNT.value += count

    assert _PLAN is not None
    return task(_PLAN, *argument, on_batch)
