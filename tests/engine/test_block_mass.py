"""What the written tokens attended to: every bit of probability is counted, for those who asked and only for them."""

import numpy as np
import pytest
from driving import finish, request
from test_engine_model import engine_of, prompt_of

from whimbrel.engine import Engine, StepOutput

WRITTEN = 9


def last(engine: Engine, outputs: list[StepOutput]) -> StepOutput:
    assert outputs[-1].finish_reason is not None
    return outputs[-1]


def total(engine: Engine, tokens: int) -> int:
    """Each layer and query head of each token gives away a probability of 1."""
    return engine.config.num_hidden_layers * engine.config.num_attention_heads * tokens


@pytest.mark.parametrize("chunk", [7, 512])
def test_all_attention_of_the_written_tokens_is_counted(chunk: int) -> None:
    engine = engine_of(ops="reference", layout="f32", prefill_chunk=chunk)
    id = engine.add(request(prompt_of(150), max_tokens=WRITTEN, block_mass=True, ignore_eos=True))
    output = last(engine, finish(engine, id)[id])
    assert output.block_mass is not None
    assert output.block_mass.shape == (engine.config.num_key_value_heads, 3)
    assert output.block_mass.sum() == pytest.approx(total(engine, WRITTEN - 1), rel=1e-5)


def test_a_batch_keeps_each_requests_attention_apart() -> None:
    def run(*prompts: int) -> list[StepOutput]:
        engine = engine_of(ops="reference", layout="f32")
        wishes = [
            request(prompt_of(length, length), max_tokens=WRITTEN, block_mass=length != 70, ignore_eos=True)
            for length in prompts
        ]
        ids = [engine.add(wish) for wish in wishes]
        outputs = finish(engine, *ids)
        return [last(engine, outputs[id]) for id in ids]

    short, silent, long = run(66, 70, 200)
    assert silent.block_mass is None
    for alone, together in zip((*run(66), *run(200)), (short, long), strict=True):
        assert alone.block_mass is not None and together.block_mass is not None
        np.testing.assert_allclose(together.block_mass, alone.block_mass, rtol=1e-4)
