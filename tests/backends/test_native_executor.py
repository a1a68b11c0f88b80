"""The engine behind Executor: several streams at once, from one thread or many."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Self

import pytest

from whimbrel.backends.executor import Executor, FinishReason, Request, SamplingParams, Step
from whimbrel.backends.native import NativeExecutor
from whimbrel.backends.open import open_model
from whimbrel.errors import PromptTooLong, UsageError, WhimbrelError


def executor_of(path: Path, **options: object) -> NativeExecutor:
    settings: dict[str, object] = {"ops": "reference", "context": 256, "kv_dtype": "f32"} | options
    executor = open_model(path, **settings).executor  # type: ignore[arg-type]
    assert isinstance(executor, NativeExecutor) and isinstance(executor, Executor)
    return executor


@pytest.fixture(scope="module")
def executor(checkpoint: Path) -> NativeExecutor:
    return executor_of(checkpoint, max_sequences=4)


def request(seed: int, **params: object) -> Request:
    ids = tuple(random.Random(seed).choices(range(5, 320), k=10 + seed))
    return Request(token_ids=ids, params=SamplingParams(**{"max_tokens": 6, "ignore_eos": True, **params}))  # type: ignore[arg-type]


def broken_params() -> SamplingParams:
    """Parameters under which no token can be chosen."""
    params = SamplingParams(max_tokens=9)
    object.__setattr__(params, "logit_bias", dict.fromkeys(range(320), float("-inf")))
    return params


def tokens(executor: NativeExecutor, seed: int) -> list[int]:
    return [token for step in executor.generate(request(seed)) for token in step.token_ids]


def test_interleaved_streams_equal_streams_one_after_the_other(executor: NativeExecutor) -> None:
    alone = [tokens(executor, seed) for seed in range(5)]
    streams = [executor.generate(request(seed)) for seed in range(5)]
    together: list[list[int]] = [[] for _ in streams]
    left = set(range(5))
    while left:
        for index in sorted(left):
            step = next(streams[index], None)
            if step is None:
                left.discard(index)
            else:
                together[index] += step.token_ids
    assert together == alone


def test_threads_share_the_engine(executor: NativeExecutor) -> None:
    alone = [tokens(executor, seed) for seed in range(8)]
    found: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda s=seed: found.update({s: tokens(executor, s)})) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[seed] for seed in range(8)] == alone
    assert executor.stats.running == executor.stats.waiting == 0


def test_a_stream_that_is_dropped_frees_its_blocks(executor: NativeExecutor) -> None:
    never_started = executor.generate(request(1))
    started = executor.generate(request(2, max_tokens=100))
    next(started)
    started.close()
    del never_started
    assert executor.stats.blocks_used == 0
    assert list(started) == []


def test_a_stream_may_be_collected_in_the_middle_of_a_step(executor: NativeExecutor) -> None:
    dropped = executor.generate(request(4, max_tokens=50))
    next(dropped)
    with executor._lock:  # as in a step: the collector must not wait for the lock, nor change anything
        del dropped
        assert executor._running().stats.running == 1
    list(executor.generate(request(1)))
    assert executor.stats.running == 0 and executor.stats.blocks_used == 0


def test_a_stream_that_another_thread_closed_ends(executor: NativeExecutor) -> None:
    stream = executor.generate(request(4, max_tokens=50))
    next(stream)
    executor._abandon(stream._id)
    assert list(stream) == [] and stream.ended


def test_steps_are_there_after_advancing(executor: NativeExecutor) -> None:
    expected = [tokens(executor, seed) for seed in range(3)]
    streams = [executor.generate(request(seed)) for seed in range(3)]
    assert all(stream.poll() is None and not stream.ended for stream in streams)
    found: list[list[int]] = [[] for _ in streams]
    while executor.advance():
        for stream, ids in zip(streams, found, strict=True):
            while (step := stream.poll()) is not None:
                ids += step.token_ids
    assert found == expected
    assert all(stream.ended and stream.poll() is None for stream in streams)
    assert not executor.advance()


def test_polling_raises_the_request_s_error_once(executor: NativeExecutor) -> None:
    stream = executor.generate(request(1, max_tokens=9))
    executor._running()._sequences[stream._id].params = broken_params()
    executor.advance()
    with pytest.raises(WhimbrelError, match="no token can be chosen"):
        stream.poll()
    assert stream.ended and stream.poll() is None and list(stream) == []


def test_polling_a_stopped_or_closed_stream(executor: NativeExecutor) -> None:
    stopped, closed = executor.generate(request(1)), executor.generate(request(2))
    executor.advance()
    executor._abandon(stopped._id)
    assert stopped.poll() is not None and stopped.poll() is None and stopped.ended
    closed.close()
    assert closed.poll() is None and closed.ended


class Driver:
    """A thread that steps, as a server's does."""

    def __init__(self, executor: NativeExecutor) -> None:
        self.executor = executor
        self.wake, self.stopping = threading.Event(), False
        self.steps = 0
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self.executor.drive(self.wake.set):
            self.ready.set()
            while not self.stopping:
                self.wake.clear()
                if self.executor.advance():
                    self.steps += 1
                elif not self.stopping:
                    self.wake.wait()

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        self.wake.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


def in_threads(*functions: Callable[[], object]) -> None:
    """Run them side by side; the first error is raised."""
    with ThreadPoolExecutor(len(functions)) as pool:
        for future in [pool.submit(function) for function in functions]:
            future.result(60)


def test_a_driver_steps_and_the_others_wait(executor: NativeExecutor) -> None:
    alone = [tokens(executor, seed) for seed in range(12)]
    found: dict[int, list[int]] = {}
    before = executor.stats.steps
    with Driver(executor) as driver:
        in_threads(*(lambda s=seed: found.update({s: tokens(executor, s)}) for seed in range(12)))  # type: ignore[misc]
    assert [found[seed] for seed in range(12)] == alone
    assert driver.steps == executor.stats.steps - before
    assert tokens(executor, 3) == alone[3]  # without a driver the asking thread steps again


def test_nobody_starves_beside_a_driver(executor: NativeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in line when a step ends comes before the next one, however fast the driver is."""
    engine, asking, steps = executor._running(), threading.Event(), 0
    step = engine.step

    def step_until_someone_is_in_line() -> list[Step]:
        nonlocal steps
        outputs = step()
        if asking.is_set():
            steps += 1
            while not executor._gate.locked():
                sleep(0.0001)
        return outputs

    monkeypatch.setattr(engine, "step", step_until_someone_is_in_line)
    waits = []
    with Driver(executor) as driver:
        streams = [executor.generate(request(seed, max_tokens=200)) for seed in range(4)]
        for _ in range(50):
            before = driver.steps
            while driver.steps == before:
                sleep(0.0001)
            before = steps
            asking.set()
            with executor.exclusive():
                asking.clear()
                waits.append(steps - before)
        for stream in streams:
            stream.close()
    assert max(waits) <= 1


def test_many_threads_beside_a_driver(executor: NativeExecutor) -> None:
    alone = [tokens(executor, seed) for seed in range(8)]

    def use(seed: int) -> None:
        for _ in range(5):
            assert tokens(executor, seed) == alone[seed]
            executor.generate(request(seed, max_tokens=200)).close()
            with executor.exclusive() as engine:
                engine.audit()

    with Driver(executor):
        in_threads(*(lambda s=seed: use(s) for seed in range(8)))  # type: ignore[misc]
    assert executor.stats.running == executor.stats.waiting == executor.stats.blocks_used == 0


def test_leaving_drive_frees_those_who_wait(executor: NativeExecutor) -> None:
    alone = tokens(executor, 5)
    found: list[int] = []
    with executor.drive(lambda: None):  # a driver that never steps
        waiting = threading.Thread(target=lambda: found.extend(tokens(executor, 5)))
        waiting.start()
        while executor.stats.waiting == 0:
            sleep(0.0001)
    waiting.join(60)
    assert found == alone


def test_the_driving_thread_may_iterate_too(executor: NativeExecutor) -> None:
    alone = tokens(executor, 5)
    with executor.drive(lambda: None):
        executor.advance()
        assert tokens(executor, 5) == alone


def test_closing_a_stream_ends_whoever_waits_for_it(executor: NativeExecutor) -> None:
    with Driver(executor) as driver, ThreadPoolExecutor(1) as pool:
        stream = executor.generate(request(4, max_tokens=200))
        waiting = pool.submit(list, stream)
        while driver.steps < 3:
            sleep(0.0001)
        stream.close()
        assert len(waiting.result(60)) < 200
    assert executor.stats.running == 0 and executor.stats.blocks_used == 0


def test_one_driver_at_a_time(executor: NativeExecutor) -> None:
    with executor.drive(lambda: None), pytest.raises(UsageError, match="driven by another"), executor.drive(print):
        pass
    with executor.drive(lambda: None):
        pass


def test_closing_the_executor_ends_whoever_waits(checkpoint: Path) -> None:
    executor = executor_of(checkpoint)
    with executor.drive(lambda: None):
        stream = executor.generate(request(1))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, stream)
            executor.close()
            with pytest.raises(UsageError, match="closed"):
                waiting.result(60)


def test_impossible_requests_are_refused_at_once(executor: NativeExecutor) -> None:
    with pytest.raises(PromptTooLong):
        executor.generate(request(3, max_tokens=1000))


def test_a_request_s_own_error_reaches_the_one_who_asked(executor: NativeExecutor) -> None:
    forbidding = request(1, logit_bias=dict.fromkeys(range(320), -100.0))
    assert len(list(executor.generate(forbidding))) == 6  # all equal again
    broken = NativeExecutor(executor._running())
    broken._engine._sample = lambda logits, **params: (_ for _ in ()).throw(ValueError("nothing"))  # type: ignore[union-attr]
    with pytest.raises(WhimbrelError, match="no token can be chosen"):
        list(broken.generate(request(1, temperature=1.0)))
    assert broken.stats.blocks_used == 0


def test_closing(checkpoint: Path) -> None:
    executor = executor_of(checkpoint)
    stream = executor.generate(request(1))
    executor.close()
    executor.close()
    with pytest.raises(UsageError, match="closed"):
        next(stream)
    with pytest.raises(UsageError, match="closed"):
        executor.generate(request(1))


def test_scores_are_log_probabilities(executor: NativeExecutor) -> None:
    ids = list(request(30).token_ids)
    scores = executor.score(ids)
    assert len(scores) == len(ids) - 1 and all(score < 0 for score in scores)
    steps = list(executor.generate(Request(token_ids=tuple(ids), params=SamplingParams(max_tokens=0))))
    assert steps[-1].finish_reason == FinishReason.LENGTH and steps[-1].token_ids == ()


def test_capabilities(executor: NativeExecutor) -> None:
    offered = executor.capabilities
    assert (offered.max_context, offered.max_sequences, offered.vocab_size) == (256, 4, 320)
    assert offered.implementation == "reference"
