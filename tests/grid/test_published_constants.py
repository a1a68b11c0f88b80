"""With the constants that are published: prompts around dense_len, read in chunks and beside others, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
from cells import Scores, TinyModel, ask, bound, finish

from whimbrel.attention.keys import count_keys
from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine import Engine
from whimbrel.formats.packed import pack
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

MISSING = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

SPARSE = SparseConfig()
LENGTHS = (9000, 8180, 100)
"""Sparse from 8,192 on; sparse after twelve written tokens; dense."""
PROMPTS = [
    tuple(int(id) for id in np.random.default_rng(length).integers(5, tiny.VOCAB_SIZE, length)) for length in LENGTHS
]


@pytest.fixture(scope="module")
def model() -> TinyModel:
    config = replace(tiny.config("minicpm", max_position_embeddings=16_384), sparse=SPARSE)
    return TinyModel(config, tiny.params(config, matrix=lambda dense: pack(dense, "q4", 32)))


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
def test_chunks_and_neighbours_do_not_change_a_bit(model: TinyModel, kv_dtype: str) -> None:
    def run(chunk: int, *prompts: tuple[int, ...]) -> tuple[Engine, list[Scores]]:
        engine = Engine(
            model, ops=bound("native"), max_context=9216, num_blocks=300, prefill_chunk=chunk, kv_dtype=kv_dtype
        )
        return engine, finish(engine, *[ask(engine, prompt, 20) for prompt in prompts])

    alone = [run(9216, prompt)[1][0] for prompt in PROMPTS]
    assert run(1111, PROMPTS[0])[1] == alone[:1]
    engine, together = run(700, *PROMPTS)
    assert together == alone
    parts = [count_keys(0, length + 19, SPARSE) for length in LENGTHS]
    assert engine.stats.keys == parts[0] + parts[1] + parts[2]
