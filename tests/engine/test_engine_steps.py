"""Batching, chunking, sharing and preemption change when a token is computed, never which one."""

import random
from typing import Any

import pytest
from driving import finish, request, tokens_of, toy_engine, write
from toy import VOCAB_SIZE, hashes, oracle, toy_logits, toy_ops

from whimbrel.engine import FinishReason
from whimbrel.errors import DoesNotFit, InvalidParameter, PromptTooLong, UsageError


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCAB_SIZE), k=length)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 128, 129, 300])
@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_chunked_reading_equals_the_oracle(length: int, chunk: int) -> None:
    engine = toy_engine(prefill_chunk=chunk)
    assert write(engine, prompt_of(length), max_tokens=70) == oracle(prompt_of(length), 70)
    engine.audit()


def test_many_at_once_equal_one_at_a_time() -> None:
    engine = toy_engine(max_sequences=5, num_blocks=60, prefill_chunk=50)
    prompts = [prompt_of(length, seed) for seed, length in enumerate([5, 200, 64, 1, 90, 33, 128, 250, 17])]
    ids = [engine.add(request(prompt, max_tokens=40)) for prompt in prompts]
    outputs = finish(engine)
    for id, prompt in zip(ids, prompts, strict=True):
        assert tokens_of(outputs[id]) == oracle(prompt, 40)
        assert outputs[id][-1].finish_reason == FinishReason.LENGTH
    engine.audit()
    assert engine.stats.blocks_used == 0


def test_a_short_prompt_is_not_kept_waiting_by_a_long_one() -> None:
    engine = toy_engine(max_sequences=2, num_blocks=20, prefill_chunk=64)
    engine.add(request(prompt_of(500), max_tokens=1))
    engine.step()
    short = engine.add(request(prompt_of(20, 1), max_tokens=1))
    assert any(output.request_id == short and output.token_ids for output in engine.step())


def test_progress_of_reading_is_told() -> None:
    engine = toy_engine(prefill_chunk=64)
    id = engine.add(request(prompt_of(150), max_tokens=1))
    outputs = finish(engine, id)[id]
    assert [output.processed for output in outputs] == [64, 128, 150]
    assert [output.token_ids for output in outputs[:2]] == [(), ()]
    assert outputs[-1].usage.prompt_tokens == 150 and outputs[-1].usage.completion_tokens == 1


@pytest.mark.parametrize("length", [10, 64, 65, 100, 128, 200])
def test_a_repeated_prompt_is_read_once(length: int) -> None:
    engine = toy_engine()
    first = write(engine, prompt_of(length), max_tokens=30)
    id = engine.add(request(prompt_of(length), max_tokens=30))
    outputs = finish(engine, id)[id]
    assert tokens_of(outputs) == first == oracle(prompt_of(length), 30)
    assert outputs[-1].usage.cached_tokens == length - 1
    assert outputs[-1].usage.cache_miss is None
    engine.audit()


def test_a_chat_goes_on_where_it_ended() -> None:
    engine = toy_engine()
    history = prompt_of(100)
    for turn in range(5):
        id = engine.add(request(history, max_tokens=21))
        outputs = finish(engine, id)[id]
        assert tokens_of(outputs) == oracle(history, 21)
        if turn:
            assert outputs[-1].usage.cached_tokens >= len(history) - 11  # ten new ids, and one never computed
        history = history + tokens_of(outputs) + prompt_of(10, turn)
    engine.audit()


def test_a_miss_says_why() -> None:
    engine = toy_engine(max_context=128, num_blocks=3)

    def miss(prompt: list[int]) -> str | None:
        id = engine.add(request(prompt, max_tokens=1))
        return finish(engine, id)[id][-1].usage.cache_miss

    base = prompt_of(100)
    assert miss(base) == "no earlier request began like this one"
    assert miss(base) is None
    assert miss([*base[:80], (base[80] + 1) % VOCAB_SIZE, *base[81:]]) == "what was cached differs from token 80 on"
    assert miss([*base, 1, 2]) == "nothing was cached after token 100"
    miss(prompt_of(120, 1))
    miss(prompt_of(120, 2))
    assert miss(base) == "the block at token 0 was dropped to make room for others"
    engine.audit()


def test_sharing_can_be_switched_off() -> None:
    engine = toy_engine(prefix_sharing=False)
    write(engine, prompt_of(100), max_tokens=1)
    id = engine.add(request(prompt_of(100), max_tokens=1))
    usage = finish(engine, id)[id][-1].usage
    assert usage.cached_tokens == 0 and usage.cache_miss is not None


def test_equal_prompts_at_the_same_time_are_read_once() -> None:
    engine = toy_engine(max_sequences=4, num_blocks=32, prefill_chunk=64)
    prompt = prompt_of(200)
    ids = [engine.add(request([*prompt, last], max_tokens=5)) for last in range(4)]
    outputs = finish(engine, *ids)
    for last, id in enumerate(ids):
        assert tokens_of(outputs[id]) == oracle([*prompt, last], 5)
    assert engine.stats.cached_tokens >= 3 * 192
    engine.audit()


def test_blocks_that_two_computed_are_kept_once() -> None:
    engine = toy_engine(max_sequences=2, num_blocks=32)
    short, long = prompt_of(60), prompt_of(200)
    ids = [engine.add(request(short, max_tokens=20)), engine.add(request(long[:60], max_tokens=20))]
    finish(engine, *ids)
    assert engine.stats.blocks_idle <= 3  # the full block once, and what each began after it
    engine.audit()


def test_preempted_sequences_recover() -> None:
    engine = toy_engine(max_sequences=4, num_blocks=9, prefill_chunk=64)
    prompts = [prompt_of(100, seed) for seed in range(4)]
    ids = [engine.add(request(prompt, max_tokens=150)) for prompt in prompts]
    outputs = finish(engine)
    assert engine.stats.preemptions > 0
    for id, prompt in zip(ids, prompts, strict=True):
        assert tokens_of(outputs[id]) == oracle(prompt, 150)
        assert outputs[id][-1].usage.cached_tokens == 0, "what a preempted sequence finds again is not the user's hit"
    engine.audit()


def test_abort_frees_blocks_and_tells_what_was_done() -> None:
    engine = toy_engine(prefill_chunk=64, max_sequences=1, num_blocks=20)
    reading = engine.add(request(prompt_of(200)))
    waiting = engine.add(request(prompt_of(20)))
    engine.step()
    output = engine.abort(reading)
    assert output is not None and output.finish_reason == FinishReason.ABORT and output.processed == 64
    assert engine.abort(waiting) is not None
    assert engine.abort(waiting) is None
    assert engine.is_idle and engine.stats.blocks_used == 0
    engine.audit()


def test_ends() -> None:
    prompt = prompt_of(10)
    answer = oracle(prompt, 30)
    stop = answer[12]
    upto = answer[: answer.index(stop) + 1]
    assert write(toy_engine(), prompt, max_tokens=30, stop_token_ids=(stop,)) == upto
    assert write(toy_engine({"eos_token_ids": (stop,)}), prompt, max_tokens=30) == upto
    assert write(toy_engine({"eos_token_ids": (stop,)}), prompt, max_tokens=30, ignore_eos=True) == answer
    later = write(toy_engine({"eos_token_ids": (stop,)}), prompt, max_tokens=30, min_tokens=20)
    assert len(later) >= 20 and stop not in later[:20]
    assert write(toy_engine(), prompt, max_tokens=0) == []
    assert len(write(toy_engine(max_context=64), prompt)) == 54  # to the end of the context


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    engine = toy_engine(max_context=100)
    with pytest.raises(PromptTooLong, match=r"101 tokens .* 100"):
        engine.add(request(prompt_of(101)))
    with pytest.raises(PromptTooLong, match="100 tokens and fills the context of 100"):
        engine.add(request(prompt_of(100)))
    with pytest.raises(PromptTooLong, match=r"max_tokens=50, together 130; .* 100: lower max_tokens to 20"):
        engine.add(request(prompt_of(80), max_tokens=50))
    assert engine.add(request(prompt_of(100), max_tokens=0)) == 0
    with pytest.raises(DoesNotFit, match="lower the context to 64"):
        toy_engine(max_context=100, num_blocks=1)
    with pytest.raises(DoesNotFit, match="free"):
        toy_engine(max_context=10**13)


def test_impossible_requests_are_refused() -> None:
    engine = toy_engine()
    with pytest.raises(UsageError, match="empty"):
        request([])
    with pytest.raises(InvalidParameter, match="token id 50 is outside the vocabulary of 50"):
        engine.add(request([3, VOCAB_SIZE]))
    with pytest.raises(InvalidParameter, match="logit_bias"):
        engine.add(request([3], logit_bias={VOCAB_SIZE: 1.0}))
    with pytest.raises(InvalidParameter, match="max_sequences=0"):
        toy_engine(max_sequences=0)
    with pytest.raises(InvalidParameter, match="max_context=0"):
        toy_engine(max_context=0)
    with pytest.raises(InvalidParameter, match="one of them"):
        toy_engine(num_blocks=9, cache_bytes=10)


def test_one_that_fails_does_not_take_the_others_along() -> None:
    def norm_linear(x: Any, norm: Any, weights: Any, **rest: Any) -> Any:
        if weights != ("head",):
            return x
        logits = toy_logits(x[:, 0])
        logits[x[:, 0] == bad] = float("nan")
        return logits

    bad = 0.0
    engine = toy_engine(ops=toy_ops(norm_linear=norm_linear), num_blocks=16)
    bad = float(hashes([1, 2, 3])[-1])
    broken, good = engine.add(request([1, 2, 3], max_tokens=5)), engine.add(request([4, 5], max_tokens=5))
    outputs = finish(engine)
    assert outputs[broken][-1].finish_reason == FinishReason.ERROR
    assert "nan" in str(outputs[broken][-1].error)
    assert tokens_of(outputs[good]) == oracle([4, 5], 5)
    engine.audit()


def test_an_interrupted_step_can_be_repeated() -> None:
    interrupts = iter([False, True, False, False, True] + [False] * 1000)

    def embedding(ids: Any, table: Any, *, scale: float) -> Any:
        if next(interrupts):
            raise KeyboardInterrupt
        return ids[:, None].astype("float32")

    engine = toy_engine(ops=toy_ops(embedding=embedding), prefill_chunk=64)
    id = engine.add(request(prompt_of(150), max_tokens=20))
    written: list[int] = []
    while not engine.is_idle:
        try:
            written += tokens_of(engine.step())
        except KeyboardInterrupt:
            continue
    assert id == 0 and written == oracle(prompt_of(150), 20)


def test_the_trace_adds_up() -> None:
    engine = toy_engine(prefill_chunk=64)
    write(engine, prompt_of(100), max_tokens=3)
    assert [span.tokens for span in engine.trace.spans] == [64, 36, 1, 1]
    events = engine.trace.events()
    assert [event["name"] for event in events[:4]] == ["plan", "run", "sample", "commit"]
