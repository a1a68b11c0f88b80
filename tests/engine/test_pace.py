"""A step's time is foreseen from steps before it, and limits how much of a prompt a step reads."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from driving import finish, request, tokens_of, toy_engine
from toy import VOCAB_SIZE, oracle, toy_model, toy_ops

from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine import Engine
from whimbrel.engine.pace import Load, Pace, expected_key
from whimbrel.errors import InvalidParameter
from whimbrel.models.config import ModelConfig
from whimbrel.testing import tiny

Machine = Callable[[Load], float]
DEPTH = 30_000


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCAB_SIZE), k=length)


def machine(*, row: float = 6e-4, key: float = 2.2e-7, start: float = 4e-3, slower: float = 1.0) -> Machine:
    """Two threads of a Zen 4 with SmolLM2-135M, about: seconds of a step."""
    return lambda load: (start + row * load.rows + key * load.keys) * slower


def read(pace: Pace, seconds: Machine, start: int, stop: int, chunk: int) -> None:
    """A prompt is read in pieces."""
    for position in range(start, stop, chunk):
        load = pace.load(position, min(position + chunk, stop))
        pace.learn(load, seconds(load))


def smollm2() -> ModelConfig:
    """Its shapes."""
    return ModelConfig(
        model_type="llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
    )


def test_the_expected_ratio_is_that_of_multiplications() -> None:
    linear = 576 * 576 + 2 * 192 * 576 + 576 * 576 + 3 * 576 * 1536
    assert expected_key(smollm2()) == 2 * 9 * 64 / linear


@pytest.mark.parametrize("key", [5e-8, 2.2e-7, 1e-6])
def test_what_was_measured_at_all_depths_is_foreseen(key: float) -> None:
    """Also where a key costs a quarter or five times of what multiplications say."""
    pace, seconds = Pace(smollm2()), machine(key=key)
    read(pace, seconds, 0, DEPTH, 128)
    for start in (0, 100, 5_000, 20_000, DEPTH):
        for count in (64, 200, 512):
            load = pace.load(start, start + count)
            assert pace.seconds(load) == pytest.approx(seconds(load), rel=0.25)


def test_one_long_prompt_at_one_depth_says_what_others_will_cost() -> None:
    pace, seconds = Pace(smollm2()), machine()
    read(pace, seconds, 28_000, DEPTH, 32)
    load = pace.load(0, 200)
    assert pace.seconds(load) == pytest.approx(seconds(load), rel=0.5)


def test_a_slower_machine_is_noticed_within_a_few_steps_and_a_hiccup_forgotten() -> None:
    pace, seconds = Pace(smollm2()), machine()
    read(pace, seconds, 0, 8_000, 64)
    load = pace.load(8_000, 8_064)
    pace.learn(load, 100 * seconds(load))
    assert pace.seconds(load) < 1.5 * seconds(load)
    slower = machine(slower=2)
    read(pace, slower, 8_064, 8_064 + 64 * 12, 64)
    load = pace.load(9_000, 9_064)
    assert pace.seconds(load) == pytest.approx(slower(load), rel=0.15)


def test_keys_that_sparse_attention_leaves_out_cost_little() -> None:
    sparse = SparseConfig(dense_len=4096)
    config = tiny.config("llama")
    object.__setattr__(config, "sparse", sparse)
    dense, few = Pace(tiny.config("llama")), Pace(config)
    assert few.load(0, 100) == dense.load(0, 100)
    assert few.load(100_000, 100_064).keys < dense.load(100_000, 100_064).keys / 5


def test_senseless_measurements_are_ignored() -> None:
    pace = Pace(smollm2())
    pace.learn(Load(16, 100.0), 0.0)
    pace.learn(Load(), 1.0)
    assert not pace.is_known


class Clock:
    """Time that only a step's work moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Machine) -> None:
        self.now = 0.0
        self._seconds = seconds
        self._pace = Pace(smollm2())
        monkeypatch.setattr("whimbrel.engine.engine.perf_counter", lambda: self.now)

    def ops(self) -> Any:
        """Ops that take as long as the machine's."""
        attend = toy_ops().attend

        def slow(q: Any, inputs: Any, cache: Any, layer: int, **rest: Any) -> Any:
            load = Load()
            for last, count in zip(
                inputs.kv_lengths.tolist(), (inputs.cu_seqlens[1:] - inputs.cu_seqlens[:-1]).tolist()
            ):
                load += self._pace.load(last - count, last)
            self.now += self._seconds(load)
            return attend(q, inputs, cache, layer, **rest)

        return toy_ops(attend=slow)


def engine_on(clock: Clock, **options: Any) -> Engine:
    """The toy network with the shapes, and so the expectations, of SmolLM2."""
    engine = toy_engine(
        {"max_position_embeddings": 40_000},
        ops=clock.ops(),
        max_context=33_000,
        max_sequences=8,
        num_blocks=600,
        **options,
    )
    if engine._scheduler._pace is not None:
        engine._scheduler._pace._unit = expected_key(smollm2())
    return engine


def test_a_short_prompt_answers_soon_while_a_long_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes just after a step has begun, and beside a sequence that is being written."""
    limit = 0.3
    clock = Clock(monkeypatch, machine())
    engine = engine_on(clock, step_seconds=limit)
    long, waits, durations = prompt_of(32_000), [], []
    reading = engine.add(request(long, max_tokens=1))
    engine.add(request(prompt_of(9, 1), max_tokens=20_000))
    done = 0
    while done < len(long):
        if durations and len(durations) % 7 == 0:  # a short prompt comes while this step runs
            arrived = clock.now
            engine.step()
            id = engine.add(request(prompt_of(random.Random(done).choice((50, 200)), done), max_tokens=1))
            finish(engine, id)
            waits.append((done, clock.now - arrived))
        started = clock.now
        outputs = engine.step()
        durations.append(clock.now - started)
        done = next(output.processed for output in outputs if output.request_id == reading)
    assert max(seconds for _, seconds in waits) < 3 * limit
    assert sorted(seconds for _, seconds in waits)[int(0.9 * len(waits))] < 2.2 * limit
    assert max(durations) < 1.2 * limit
    full = durations[len(durations) // 10 :]
    assert sum(full) / len(full) > 0.7 * limit, "the time is used"


def test_without_a_limit_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, machine())
    engine = engine_on(clock)
    id = engine.add(request(prompt_of(1500), max_tokens=1))
    assert [output.processed for output in finish(engine, id)[id]] == [512, 1024, 1500]


def test_shares_are_whole_quanta_or_whole_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, machine(row=2e-3))
    engine = engine_on(clock, step_seconds=0.1)
    prompts = [prompt_of(length, length) for length in (3, 5, 17, 100, 333, 1000, 30, 64)]
    ids = [engine.add(request(prompt, max_tokens=3)) for prompt in prompts]
    before = dict.fromkeys(ids, 0)
    for output in engine.step():  # the first one, which knows nothing
        before[output.request_id] = output.processed
    while not engine.is_idle:
        for output in engine.step():
            read, length = output.processed - before[output.request_id], output.usage.prompt_tokens
            assert read % 16 == 0 or output.processed == length
            before[output.request_id] = output.processed


def test_reading_goes_on_however_slow_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, machine(slower=1000))
    engine = engine_on(clock, step_seconds=0.01)
    ids = [engine.add(request(prompt_of(150, seed), max_tokens=2)) for seed in range(3)]
    outputs = finish(engine, *ids)
    assert [tokens_of(outputs[id]) for id in ids] == [oracle(prompt_of(150, seed), 2) for seed in range(3)]


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), True, "1"])
def test_an_impossible_limit_is_refused(value: Any) -> None:
    with pytest.raises(InvalidParameter, match="step_seconds"):
        Engine(toy_model(), ops=toy_ops(), step_seconds=value)
