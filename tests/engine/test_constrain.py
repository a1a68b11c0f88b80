"""A grammar excludes tokens and forces others; what is forced costs no pass, and changes nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from driving import finish, tokens_of, toy_engine
from toy import VOCAB_SIZE, hashes, toy_logits, toy_ops

from whimbrel.engine import Engine, FinishReason, Request, SamplingParams, StepOutput
from whimbrel.engine.constrain import Row
from whimbrel.errors import InvalidParameter, WhimbrelError
from whimbrel.ops.sample.reference import run as sample

EOS = 0
PROMPT = [5, 6, 7]


@dataclass
class States:
    """A grammar of ids: state -> {id: next state}. ``EOS`` ends in a state of ``ends``."""

    moves: dict[int, dict[int, int]]
    ends: frozenset[int]

    def start(self) -> "StatesMatcher":
        return StatesMatcher(self)


@dataclass
class StatesMatcher:
    """Follows one answer by the states that it went through."""

    grammar: States
    path: list[int] = field(default_factory=lambda: [0])

    def mask(self, logits: Row) -> None:
        allowed = list(self._allowed())
        logits[np.isin(np.arange(len(logits)), allowed, invert=True)] = -np.inf

    def advance(self, token_ids: Sequence[int]) -> None:
        for id in token_ids:
            if id not in self._allowed():
                raise WhimbrelError(f"{id} can't follow")
            self.path.append(self._allowed()[id])

    def forced(self) -> tuple[int, ...]:
        run, before = [], len(self.path)
        while len(self._allowed()) == 1:
            (id,) = self._allowed()
            run.append(id)
            self.path.append(self._allowed()[id])
        del self.path[before:]
        return tuple(run)

    def rollback(self, count: int) -> None:
        assert count < len(self.path)
        del self.path[len(self.path) - count :]

    @property
    def is_complete(self) -> bool:
        return self.path[-1] == -1

    def _allowed(self) -> dict[int, int]:
        here = self.path[-1]
        return self.grammar.moves.get(here, {}) | ({EOS: -1} if here in self.grammar.ends else {})


def line(*parts: int | Sequence[int]) -> States:
    """Ids one after the other; a list is a choice."""
    moves = {at: {id: at + 1 for id in ([part] if isinstance(part, int) else part)} for at, part in enumerate(parts)}
    return States(moves, frozenset({len(parts)}))


MIXED = line(11, 12, [20, 21, 22], 13, 14, 15, [23, 24], [25, 26, 27], 16)
"""forced from the beginning, in the middle and at the end"""
LOOP = States({0: {11: 1}, 1: {id: 2 for id in range(20, 30)}, 2: {12: 3}, 3: {13: 0}}, frozenset({0}))
"""two forced ids, then a choice, as often as it likes"""


def constrained(grammar: Any, prompt: Sequence[int] = PROMPT, **params: Any) -> Request:
    return Request(token_ids=tuple(prompt), params=SamplingParams(**params), grammar=grammar)


def engine_with_eos(**options: Any) -> Engine:
    return toy_engine({"eos_token_ids": (EOS,)}, **options)


def outputs_of(request: Request, **options: Any) -> list[StepOutput]:
    engine = engine_with_eos(**options)
    id = engine.add(request)
    outputs = finish(engine, id)[id]
    engine.audit()
    return outputs


def by_hand(grammar: States, prompt: Sequence[int], most: int) -> list[int]:
    """Greedy: at every place the allowed token with the highest logit, each from a pass of its own."""
    matcher, tokens = grammar.start(), list(prompt)
    while not matcher.is_complete and len(tokens) - len(prompt) < most:
        logits = toy_logits(hashes(np.array(tokens))[-1:])[0]
        matcher.mask(logits)
        tokens.append(int(logits.argmax()))
        matcher.advance(tokens[-1:])
    return tokens[len(prompt) :]


@pytest.mark.parametrize("chunk", [1, 2, 64])
@pytest.mark.parametrize("extra", [{}, {"logprobs": 2}, {"block_mass": True}, {"logprobs": 0, "prompt_logprobs": 0}])
@pytest.mark.parametrize("length", [1, 62, 64, 130])
def test_greedy_answers_are_those_of_one_pass_a_token(length: int, chunk: int, extra: dict[str, Any]) -> None:
    prompt = [(7 * i) % VOCAB_SIZE for i in range(length)]
    outputs = outputs_of(constrained(LOOP, prompt, max_tokens=90, **extra), prefill_chunk=chunk)
    tokens = tokens_of(outputs)
    assert tokens == by_hand(LOOP, prompt, 90)
    assert outputs[-1].usage.completion_tokens == len(tokens)
    if "logprobs" in extra:
        assert [score.token_id for output in outputs for score in output.logprobs] == tokens


def test_forced_tokens_cost_no_pass() -> None:
    outputs = outputs_of(constrained(MIXED))
    assert [len(output.token_ids) for output in outputs] == [2 + 1 + 3, 1, 1 + 2]
    assert outputs[-1].token_ids[-2:] == (16, EOS) and outputs[-1].finish_reason == FinishReason.STOP


@pytest.mark.parametrize("extra", [{"logprobs": 0}, {"block_mass": True}])
def test_what_is_asked_of_each_token_costs_a_pass_of_each(extra: dict[str, Any]) -> None:
    outputs = outputs_of(constrained(MIXED, **extra))
    assert [len(output.token_ids) for output in outputs] == [1] * 10
    assert tokens_of(outputs) == tokens_of(outputs_of(constrained(MIXED)))


@pytest.mark.parametrize("extra", [{}, {"logprobs": 0}])
@pytest.mark.parametrize("most", range(1, 12))
def test_max_tokens_cuts_anywhere(most: int, extra: dict[str, Any]) -> None:
    outputs = outputs_of(constrained(MIXED, max_tokens=most, **extra))
    whole = tokens_of(outputs_of(constrained(MIXED)))
    assert tokens_of(outputs) == whole[:most]
    assert outputs[-1].finish_reason == (FinishReason.STOP if most >= len(whole) else FinishReason.LENGTH)


def test_no_tokens_may_be_written() -> None:
    (output,) = outputs_of(constrained(MIXED, max_tokens=0))
    assert output.token_ids == () and output.finish_reason == FinishReason.LENGTH


def test_an_answer_without_a_choice_is_read_with_the_prompt() -> None:
    (output,) = outputs_of(constrained(line(11, 12, 13)))
    assert output.token_ids == (11, 12, 13, EOS) and output.finish_reason == FinishReason.STOP
    assert output.usage.completion_tokens == 4 and output.processed == len(PROMPT)


def test_the_end_of_the_context_cuts_a_forced_run() -> None:
    outputs = outputs_of(constrained(LOOP, [3] * 500))
    assert len(tokens_of(outputs)) == 12 and outputs[-1].finish_reason == FinishReason.LENGTH


@pytest.mark.parametrize("extra", [{}, {"logprobs": 0}])
@pytest.mark.parametrize("stop", [12, 13, 14])
def test_a_stop_token_ends_a_forced_run(stop: int, extra: dict[str, Any]) -> None:
    outputs = outputs_of(constrained(MIXED, stop_token_ids=(stop,), **extra))
    assert outputs[-1].token_ids[-1] == stop and outputs[-1].finish_reason == FinishReason.STOP
    assert tokens_of(outputs).count(stop) == 1


def test_an_ending_id_of_the_grammar_alone_ends_the_answer() -> None:
    engine = toy_engine()  # a model that names no such id
    id = engine.add(constrained(MIXED))
    outputs = finish(engine, id)[id]
    assert outputs[-1].token_ids[-1] == EOS and outputs[-1].finish_reason == FinishReason.STOP


def test_min_tokens_takes_the_longer_way_where_there_is_one() -> None:
    short = tokens_of(outputs_of(constrained(LOOP, [9], max_tokens=100)))
    assert EOS in short
    least = len(short) + 20
    tokens = tokens_of(outputs_of(constrained(LOOP, [9], max_tokens=100, min_tokens=least)))
    assert EOS not in tokens[:least]


@pytest.mark.parametrize("extra", [{}, {"logprobs": 0}])
def test_min_tokens_that_the_grammar_can_not_reach_are_an_error(extra: dict[str, Any]) -> None:
    error = outputs_of(constrained(MIXED, min_tokens=11, **extra))[-1].error
    assert error is not None and "min_tokens=11" in str(error)


@pytest.mark.parametrize("penalty", [{"repetition_penalty": 1.5}, {"presence_penalty": 1.5, "frequency_penalty": 0.7}])
def test_penalties_count_forced_tokens(penalty: dict[str, Any]) -> None:
    jumping = outputs_of(constrained(LOOP, [9], max_tokens=60, min_tokens=60, **penalty))
    walking = outputs_of(constrained(LOOP, [9], max_tokens=60, min_tokens=60, logprobs=0, **penalty))
    assert tokens_of(jumping) == tokens_of(walking)
    assert tokens_of(jumping) != tokens_of(outputs_of(constrained(LOOP, [9], max_tokens=60, min_tokens=60)))


def test_a_bias_does_not_break_the_shape() -> None:
    tokens = tokens_of(outputs_of(constrained(LOOP, [9], max_tokens=50, logit_bias={40: 100.0, 21: 100.0})))
    assert tokens[1::4] == [21] * len(tokens[1::4]) and 40 not in tokens


def test_company_changes_nothing() -> None:
    requests = [
        constrained(
            grammar,
            [seed, *(i % VOCAB_SIZE for i in range(length))],
            max_tokens=80,
            temperature=1.0,
            seed=seed,
            **extra,
        )
        for seed, length in enumerate([1, 40, 5, 90, 63, 17])
        for grammar, extra in ((LOOP, {}), (MIXED, {}), (None, {}), (LOOP, {"logprobs": 1}))
    ]
    engine = engine_with_eos(max_sequences=7, num_blocks=40, prefill_chunk=20)
    ids = [engine.add(request) for request in requests]
    together = finish(engine)
    for id, request in zip(ids, requests, strict=True):
        assert tokens_of(together[id]) == tokens_of(outputs_of(request))
    engine.audit()


def test_blocks_that_are_taken_back_change_nothing() -> None:
    engine = engine_with_eos(max_sequences=4, num_blocks=8, max_context=448)
    requests = [constrained(LOOP, [seed] * 50, max_tokens=120, min_tokens=120) for seed in range(4)]
    ids = [engine.add(request) for request in requests]
    together = finish(engine)
    assert engine.stats.preemptions > 0
    for id, request in zip(ids, requests, strict=True):
        assert tokens_of(together[id]) == tokens_of(outputs_of(request))
    engine.audit()


def test_a_second_answer_shares_the_blocks_of_the_first() -> None:
    engine = engine_with_eos()
    first = engine.add(constrained(LOOP, [9] * 70, max_tokens=100, min_tokens=100))
    written = tokens_of(finish(engine, first)[first])
    second = engine.add(constrained(None, [9] * 70 + written, max_tokens=4))
    outputs = finish(engine, second)[second]
    assert outputs[-1].usage.cached_tokens >= 128
    assert tokens_of(outputs) == tokens_of(outputs_of(constrained(None, [9] * 70 + written, max_tokens=4)))


def test_a_forced_run_does_not_wait_for_a_long_prompt() -> None:
    engine = engine_with_eos(max_sequences=2, num_blocks=30, prefill_chunk=64)
    short = engine.add(constrained(MIXED))
    engine.step()
    engine.add(constrained(None, [8] * 450, max_tokens=1))
    written = [len(output.token_ids) for _ in range(2) for output in engine.step() if output.request_id == short]
    assert written == [1, 3]


class Broken(StatesMatcher):
    """Fails at its third id."""

    def mask(self, logits: Row) -> None:
        if len(self.path) > 3:
            raise WhimbrelError("it became too much")
        super().mask(logits)


def test_a_matcher_that_fails_ends_its_own_sequence_only() -> None:
    class Breaking(States):
        def start(self) -> Broken:
            return Broken(self)

    engine = engine_with_eos(max_sequences=2, num_blocks=20)
    bad = engine.add(constrained(Breaking(LOOP.moves, LOOP.ends), max_tokens=30))
    good = engine.add(constrained(LOOP, max_tokens=30))
    outputs = finish(engine)
    assert outputs[bad][-1].finish_reason == FinishReason.ERROR and str(outputs[bad][-1].error) == "it became too much"
    assert tokens_of(outputs[good]) == by_hand(LOOP, PROMPT, 30)
    engine.audit()


def test_a_step_that_was_left_early_can_be_repeated() -> None:
    interrupted = []

    def interrupting(*arguments: Any, **options: Any) -> Any:
        if len(interrupted) < 5:
            interrupted.append(True)
            raise KeyboardInterrupt
        return sample(*arguments, **options)

    request = constrained(LOOP, max_tokens=40)
    engine = engine_with_eos(ops=toy_ops(sample=interrupting), max_sequences=2, num_blocks=20)
    id = engine.add(request)
    engine.add(constrained(None, [4], max_tokens=20, temperature=1.0, seed=1))
    written: list[int] = []
    while not engine.is_idle:
        try:
            outputs = engine.step()
        except KeyboardInterrupt:
            continue
        written += [token for output in outputs if output.request_id == id for token in output.token_ids]
    assert len(interrupted) == 5
    assert written == tokens_of(outputs_of(request))


def test_a_sequence_that_is_stopped_early_tells_what_it_told() -> None:
    engine = engine_with_eos(prefill_chunk=2)
    id = engine.add(constrained(MIXED))
    (output,) = engine.step()
    assert output.token_ids == () and output.usage.completion_tokens == 0
    last = engine.abort(id)
    assert last is not None and last.usage.completion_tokens == 0 and last.processed == 2
    engine.audit()


def test_what_excludes_each_other_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="ignore_eos"):
        constrained(MIXED, ignore_eos=True)
    with pytest.raises(InvalidParameter, match="a str"):
        constrained("start: /a/")
