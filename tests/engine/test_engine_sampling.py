"""Parameters: ranges, penalties as transformers defines them, seeds that depend on nothing else."""

from typing import Any

import numpy as np
import pytest
from driving import finish, request, tokens_of, toy_engine, write
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import VOCAB_SIZE

from whimbrel.engine.request import Request, SamplingParams, Sequence
from whimbrel.engine.sampling import adjust, penalize_occurrence, token_logprobs, uniform
from whimbrel.errors import InvalidParameter

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def sequence(prompt: list[int], answer: list[int], **params: Any) -> Sequence:
    made = Sequence(
        0,
        Request(token_ids=tuple(prompt), params=SamplingParams(**params)),
        seed=0,
        limit=99,
        stops=frozenset({7}),
        now=0.0,
    )
    made.tokens += answer
    return made


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": "hot"}, {"temperature": True},
        {"top_k": -1}, {"top_k": 1.5}, {"top_p": 0}, {"top_p": 1.01}, {"min_p": 1}, {"min_p": -0.5},
        {"typical_p": 0}, {"repetition_penalty": 0}, {"presence_penalty": 2.1}, {"frequency_penalty": -3},
        {"seed": -1}, {"seed": 2**64}, {"max_tokens": -1}, {"logprobs": 101}, {"prompt_logprobs": -1},
        {"stop_token_ids": (-1,)}, {"logit_bias": {1: float("inf")}}, {"logit_bias": {-1: 1}},
        {"min_tokens": 5, "max_tokens": 4},
    ],
)  # fmt: skip
def test_impossible_values_are_refused_with_name_value_and_range(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(InvalidParameter, match=name) as error:
        SamplingParams(**wrong)
    assert str(value) in str(error.value) or isinstance(value, (tuple, dict)) or value == "hot"


def test_unknown_parameters_are_named() -> None:
    with pytest.raises(InvalidParameter, match="did you mean top_p"):
        SamplingParams.of({"topp": 1})
    with pytest.raises(InvalidParameter, match="there are temperature"):
        SamplingParams.of({"quux": 1})


@settings(deadline=None)
@given(
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=30),
    st.floats(0.2, 3.0),
    st.integers(0, 2**32 - 1),
)
def test_repetition_penalty_is_that_of_transformers(ids: list[int], penalty: float, seed: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers.generation import RepetitionPenaltyLogitsProcessor

    logits = np.random.default_rng(seed).standard_normal(VOCAB_SIZE).astype(np.float32)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), torch.from_numpy(logits[None].copy()))
    half = len(ids) // 2
    ours = adjust(logits, sequence(ids[:half] or ids, ids[half:] if half else [], repetition_penalty=penalty))
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-6)


def test_presence_and_frequency_count_the_answer_only() -> None:
    logits = np.zeros(10, np.float32)
    adjusted = adjust(logits, sequence([1, 1, 2], [2, 3, 3], presence_penalty=0.5, frequency_penalty=0.25))
    assert adjusted.tolist() == [0, 0, -0.75, -1.0, 0, 0, 0, 0, 0, 0]
    assert not logits.any(), "the row is the runner's"
    row = np.ones(4, np.float32)
    penalize_occurrence(row, np.array([0, 2, 0, 1], np.int32), 0.0, -1.0)
    assert row.tolist() == [1, 3, 1, 2]


def test_bias_and_min_tokens() -> None:
    logits = np.zeros(10, np.float32)
    assert adjust(logits, sequence([1], [], logit_bias={4: 2.5, 5: -100}))[[4, 5]].tolist() == [2.5, -100]
    assert adjust(logits, sequence([1], [2], min_tokens=2))[7] == -np.inf
    assert adjust(logits, sequence([1], [2, 2], min_tokens=2))[7] == 0
    assert set(write(toy_engine(), PROMPT, max_tokens=9, logit_bias={17: 100.0})) == {17}


def test_penalties_follow_the_tokens_that_are_written() -> None:
    engine = toy_engine()
    options = {"max_tokens": VOCAB_SIZE - 8, "repetition_penalty": 100.0}
    written = write(engine, PROMPT, **options)
    assert len(set(written)) == len(written) and not set(written) & set(PROMPT)


def test_uniform_is_uniform_and_has_no_state() -> None:
    draws = np.array([uniform(1, index) for index in range(20_000)])
    assert 0 <= draws.min() and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.01 and abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03
    assert uniform(1, 5) == draws[5] and uniform(2, 5) != draws[5]


def test_a_seed_gives_the_same_tokens_whatever_else_runs() -> None:
    options = {"max_tokens": 60, "temperature": 1.5, "seed": 11, "top_k": 20, "presence_penalty": 0.3}
    alone = write(toy_engine(), PROMPT, **options)
    busy = toy_engine(max_sequences=3, num_blocks=8, prefill_chunk=5)
    others = [busy.add(request([seed] * 70, max_tokens=90, temperature=1.0)) for seed in range(1, 4)]
    id = busy.add(request(PROMPT, **options))
    outputs = finish(busy, id, *others)
    assert tokens_of(outputs[id]) == alone
    assert write(toy_engine(), PROMPT, **{**options, "seed": 12}) != alone


def test_a_drawn_seed_is_told_and_repeats() -> None:
    engine = toy_engine()
    id = engine.add(request(PROMPT, max_tokens=30, temperature=1.0))
    outputs = finish(engine, id)[id]
    seed = outputs[-1].seed
    assert write(engine, PROMPT, max_tokens=30, temperature=1.0, seed=seed) == tokens_of(outputs)


def test_token_logprobs_equal_a_direct_computation() -> None:
    logits = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32) * 5
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    for row, entry in enumerate(token_logprobs(logits, [4, 39, 0], 5)):
        assert entry.logprob == pytest.approx(exact[row, entry.token_id], abs=1e-5)
        best = np.argsort(-exact[row])[:5]
        assert [id for id, _ in entry.top] == best.tolist()
        assert [p for _, p in entry.top] == pytest.approx(exact[row, best], abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 10, 64, 300])
def test_prompt_logprobs_do_not_depend_on_chunks_or_the_cache(chunk: int) -> None:
    prompt = [(7 * i * i + i) % VOCAB_SIZE for i in range(200)]
    engine = toy_engine(prefill_chunk=chunk)
    write(engine, prompt, max_tokens=2)
    id = engine.add(request(prompt, max_tokens=1, prompt_logprobs=1))
    outputs = finish(engine, id)[id]
    scores = [score for output in outputs for score in output.prompt_logprobs]
    assert [score.token_id for score in scores] == prompt[1:]
    whole = toy_engine(prefill_chunk=512)
    id = whole.add(request(prompt, max_tokens=0, prompt_logprobs=1))
    assert [s for output in finish(whole, id)[id] for s in output.prompt_logprobs] == scores
    assert outputs[-1].usage.cached_tokens == 0 and "anew" in str(outputs[-1].usage.cache_miss)


def test_prompt_logprobs_survive_preemption() -> None:
    engine = toy_engine(max_sequences=3, num_blocks=9, prefill_chunk=40)
    prompts = [[(seed + i * i) % VOCAB_SIZE for i in range(150)] for seed in range(3)]
    ids = [engine.add(request(prompt, max_tokens=120, prompt_logprobs=0)) for prompt in prompts]
    outputs = finish(engine)
    assert engine.stats.preemptions
    for id, prompt in zip(ids, prompts, strict=True):
        assert [s.token_id for o in outputs[id] for s in o.prompt_logprobs] == prompt[1:]
