"""The engine behind Executor: several streams at once, from one thread or many."""

import random
import threading
from pathlib import Path

import pytest

from whimbrel.backends.executor import Executor, FinishReason, Request, SamplingParams
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
    executor._abandon(stream._id, wait=True)
    assert list(stream) == []


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
