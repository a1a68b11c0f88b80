"""The scripted executor steps like a real one: by iterating, by advancing, from several threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from whimbrel.backends.executor import Executor, FinishReason, Request, SamplingParams
from whimbrel.backends.llm import LLM
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.errors import UsageError

PROMPT = Request(token_ids=(1,) * 1200)


def test_steps_are_there_after_advancing() -> None:
    executor = ScriptedExecutor([[7, 8, 2]])
    streams = [executor.generate(PROMPT) for _ in range(3)]
    assert isinstance(executor, Executor)
    assert all(stream.poll() is None and not stream.ended for stream in streams)
    rounds = 0
    while executor.advance():
        rounds += 1
        for stream in streams:
            step = stream.poll()
            assert step is not None and stream.poll() is None
            assert stream.ended == (step.finish_reason is not None)
    assert rounds == 5, "two steps read, three write"
    assert executor.open_streams == 0 and all(stream.ended for stream in streams)


def test_iterating_takes_what_advancing_left() -> None:
    executor = ScriptedExecutor([[7, 8, 9, 2]])
    stream = executor.generate(Request(token_ids=(1,)))
    executor.advance()
    executor.advance()
    assert [step.token_ids for step in stream] == [(7,), (8,), (9,), (2,)]
    assert stream.ended and not executor.advance()


def test_a_closed_or_dropped_stream_is_not_advanced() -> None:
    executor = ScriptedExecutor([[7, 8, 9, 2]])
    closed, dropped = executor.generate(PROMPT), executor.generate(PROMPT)
    executor.advance()
    assert executor.open_streams == 2
    closed.close()
    del dropped
    assert not executor.advance() and executor.open_streams == 0
    assert closed.ended and closed.poll() is None and list(closed) == []


def test_a_driver_is_woken() -> None:
    executor, woken = ScriptedExecutor([[7]]), list[int]()
    with executor.drive(lambda: woken.append(1)):
        executor.generate(PROMPT)
        with pytest.raises(UsageError, match="driven"), executor.drive(print):
            pass
    executor.generate(PROMPT)
    assert woken == [1]


def test_threads_share_it() -> None:
    executor = ScriptedExecutor([[7, 8, 9] * 50])
    with ThreadPoolExecutor(4) as pool:
        streams = [executor.generate(Request(token_ids=(1,))) for _ in range(4)]
        answers = [pool.submit(list, stream) for stream in streams]
        while executor.advance():
            pass
        assert all([step.token_ids[0] for step in answer.result(60)] == [7, 8, 9] * 50 for answer in answers)


def test_pieces_are_there_after_advancing(scripted: Callable[..., LLM]) -> None:
    llm = scripted("one two", "three")
    streams = [llm.stream("x"), llm.stream("y", stop="ee"), llm.stream("z", max_tokens=2)]
    texts = ["", "", ""]
    assert all(stream.poll() is None and not stream.ended for stream in streams)
    while llm.executor.advance():
        for index, stream in enumerate(streams):
            while (piece := stream.poll()) is not None:
                texts[index] += piece.text
                assert stream.ended == (piece.finish_reason is not None)
    assert texts == ["one two", "thr", "on"]
    assert [stream.result.finish_reason for stream in streams] == [
        FinishReason.STOP,
        FinishReason.STOP,
        FinishReason.LENGTH,
    ]
    assert all(stream.poll() is None for stream in streams)


def test_polling_a_request_that_was_stopped_ends_the_stream(scripted: Callable[..., LLM]) -> None:
    llm = scripted("a long answer")
    stream = llm.stream("x")
    llm.executor.advance()
    assert stream.poll() is not None
    stream._steps.close()
    assert stream.poll() is None and stream.ended
    assert stream.result.finish_reason == FinishReason.ABORT


def test_options_still_count() -> None:
    executor = ScriptedExecutor([[7, 2, 8]])
    limited = SamplingParams(max_tokens=1)
    assert len(list(executor.generate(Request(token_ids=(1,), params=limited)))) == 1
    ignoring = SamplingParams(ignore_eos=True)
    assert len(list(executor.generate(Request(token_ids=(1,), params=ignoring)))) == 3
