"""Who runs trials: this process, processes of this machine, or Ray's workers. A worker that dies is reported by name.

A pool takes trials while it has room and gives back, one at a time, what ended: an Outcome, an error that the trial
raised, or a ``Died``. Each trial of ``Processes`` has a process of its own, so that a death can take nothing else along.
"""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Protocol

from whimbrel.errors import InvalidParameter, MissingExtra, WhimbrelError
from whimbrel.tunnel.trial import Bars, Outcome, Runner, Trial


@dataclass(frozen=True, slots=True)
class Died:
    """The worker of a trial ended without an answer."""

    why: str


Ended = Outcome | WhimbrelError | Died


class Pool(Protocol):
    """Where trials run."""

    @property
    def room(self) -> int:
        """Trials that can be submitted before ``wait`` has to be called."""
        ...

    def submit(self, trial: Trial, bars: Bars) -> None: ...

    def wait(self) -> tuple[Trial, Ended]:
        """The next one that ended; at least one must have been submitted."""
        ...

    def close(self) -> None:
        """Stop what still runs."""
        ...


class Here:
    """One after another in this process."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._waiting: list[tuple[Trial, Bars]] = []

    @property
    def room(self) -> int:
        """One, or none."""
        return 1 - len(self._waiting)

    def submit(self, trial: Trial, bars: Bars) -> None:
        """Runs in ``wait``."""
        self._waiting.append((trial, bars))

    def wait(self) -> tuple[Trial, Ended]:
        """Run it."""
        trial, bars = self._waiting.pop(0)
        return trial, _answer(self._run, trial, bars)

    def close(self) -> None:
        """Forget what was not begun."""
        self._waiting.clear()


class Processes:
    """Processes of this machine, started afresh (spawn) for each trial."""

    def __init__(self, run: Runner, workers: int) -> None:
        """Raises InvalidParameter for fewer than one worker."""
        if workers < 1:
            raise InvalidParameter(f"workers={workers} is impossible; at least 1 was expected")
        self._run, self._workers = run, workers
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[connection.Connection, tuple[Trial, Any]] = {}

    @property
    def room(self) -> int:
        """Workers that have nothing to do."""
        return self._workers - len(self._running)

    def submit(self, trial: Trial, bars: Bars) -> None:
        """Start its process."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(theirs, self._run, trial, bars), name=trial.key, daemon=True
        )
        process.start()
        theirs.close()  # now only the worker holds the end: its death closes the pipe
        self._running[ours] = (trial, process)

    def wait(self) -> tuple[Trial, Ended]:
        """The next answer, or end of file from a worker that died."""
        ready = connection.wait(list(self._running))[0]
        assert isinstance(ready, connection.Connection)
        trial, process = self._running.pop(ready)
        try:
            ended: Ended = ready.recv()
        except EOFError:
            process.join()
            code = process.exitcode
            ended = Died(f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}")
        process.join()
        ready.close()
        return trial, ended

    def close(self) -> None:
        """Terminate what runs."""
        for pipe, (_, process) in self._running.items():
            process.terminate()
            process.join()
            pipe.close()
        self._running.clear()


class Ray:
    """Ray's workers: of a cluster where ``RAY_ADDRESS`` names one, else of this machine. Folders must be shared."""

    def __init__(self, run: Runner, workers: int, *, cpus_each: int = 1) -> None:
        """Starts or joins Ray. Raises MissingExtra without it."""
        try:
            import ray
        except ImportError:
            raise MissingExtra("spreading runs over Ray needs it: pip install 'whimbrel[ray]'") from None
        self._ray, self._workers, self._started = ray, workers, not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        self._remote: Any = ray.remote(num_cpus=cpus_each, max_retries=0)(_answer)
        self._put = ray.put(run)
        self._running: dict[Any, Trial] = {}

    @property
    def room(self) -> int:
        """Of ``workers``; Ray queues what its machines have no cores for."""
        return self._workers - len(self._running)

    def submit(self, trial: Trial, bars: Bars) -> None:
        """As a task of its own."""
        self._running[self._remote.remote(self._put, trial, bars)] = trial

    def wait(self) -> tuple[Trial, Ended]:
        """The next task that ended, or whose worker died."""
        (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
        trial = self._running.pop(done)
        try:
            return trial, self._ray.get(done)
        except (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.NodeDiedError) as error:
            return trial, Died(str(error).splitlines()[0])

    def close(self) -> None:
        """Cancel what runs; stop Ray where this pool started it."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
        if self._started:
            self._ray.shutdown()


def open_pool(run: Runner, workers: int, spread: str = "auto") -> Pool:
    """``auto``: processes where there are several workers; ``ray``, ``processes``, ``here`` as named."""
    makers: dict[str, Callable[[], Pool]] = {
        "auto": lambda: Processes(run, workers) if workers > 1 else Here(run),
        "processes": lambda: Processes(run, workers),
        "ray": lambda: Ray(run, workers),
        "here": lambda: Here(run),
    }
    if spread not in makers:
        raise InvalidParameter(f"spread={spread!r} is unknown; choose one of {', '.join(makers)}")
    return makers[spread]()


def _answer(run: Runner, trial: Trial, bars: Bars) -> Ended:
    try:
        return run(trial, bars)
    except WhimbrelError as error:
        return error


def _work(pipe: connection.Connection, run: Runner, trial: Trial, bars: Bars) -> None:
    pipe.send(_answer(run, trial, bars))
    pipe.close()
