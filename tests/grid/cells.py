"""The grid's cells: a tiny model whose weights, cache, attention and ops are chosen independently of each other."""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tokenizers
import torch

from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine import Engine, Request, SamplingParams, StepOutput
from whimbrel.formats.packed import pack
from whimbrel.models.config import ModelConfig
from whimbrel.models.params import Params
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

torch.set_num_threads(1)

SPARSE = SparseConfig(topk=3, window_size=64, dense_len=128)
"""Four blocks: the first, the query's own, the one before it, and one that is chosen; from position 256 on."""
CONTEXT = 512
PROMPTS = tuple(
    tuple(int(id) for id in np.random.default_rng(length).integers(5, tiny.VOCAB_SIZE, length))
    for length in (20, 127, 250, 317, 430)
)
"""Dense, about to become sparse while writing, and sparse; odd lengths and tails of any size."""

Scores = list[tuple[int, float]]


@dataclass(frozen=True)
class TinyModel:
    """Config and parameters."""

    config: ModelConfig
    params: Params


@dataclass(frozen=True)
class Cell:
    """One combination."""

    ops: str
    weights: str
    kv_dtype: str
    attention: str

    def __str__(self) -> str:
        return f"{self.ops}-{self.weights}-{self.kv_dtype}-{self.attention}"

    def engine(self, sparse: SparseConfig = SPARSE, **options: Any) -> Engine:
        """An engine of this cell."""
        model = tiny_model(self.weights)
        config = replace(model.config, sparse=sparse if self.attention == "sparse" else None)
        settings: dict[str, Any] = {"max_context": CONTEXT, "max_sequences": 8, "num_blocks": 40, "prefill_chunk": 1024}
        return Engine(
            TinyModel(config, model.params), ops=bound(self.ops), kv_dtype=self.kv_dtype, **settings | options
        )


CELLS = [
    *(
        Cell("native", *values)
        for values in itertools.product(("bf16", "q8", "q4"), ("bf16", "q8"), ("dense", "sparse"))
    ),
    *(Cell("reference", "f32", "bf16", attention) for attention in ("dense", "sparse")),
]
"""The reference has no 8-bit cache, and dequantizes packed matrices at every step: one layout is enough of it."""


@functools.cache
def tiny_model(weights: str) -> TinyModel:
    """A MiniCPM (muP scalings, two key/value heads); matrices are packed, or torch tensors for ``f32``."""
    config = tiny.config("minicpm")
    if weights == "f32":
        return TinyModel(config, tiny.params(config, matrix=torch.from_numpy, vector=torch.from_numpy))
    matrix = functools.partial(pack, layout=weights, group=32)
    return TinyModel(config, tiny.params(config, matrix=lambda dense: matrix(dense)))


@functools.cache
def bound(ops: str) -> Any:
    """The table of ops."""
    return dispatch.bind(ops)


def ask(engine: Engine, prompt: tuple[int, ...], count: int = 12) -> int:
    """Put a greedy request in line; its id."""
    params = SamplingParams(max_tokens=count, logprobs=0, ignore_eos=True)
    return engine.add(Request(token_ids=prompt, params=params))


@functools.cache
def tokenizer() -> Tokenizer:
    """The tiny models'."""
    return Tokenizer(tokenizers.Tokenizer.from_str(tiny.tokenizer_json()), eos_token_ids=(4, 2))


def shaped(prompt: tuple[int, ...], **params: Any) -> Request:
    """A greedy request of an object with long names, most of which is forced."""
    from whimbrel.backends.grammar import compile_shape
    from whimbrel.backends.shape import JsonSchema

    properties = {f"the shore of number {number}": {"enum": ["long", "short"]} for number in range(3)}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    grammar = compile_shape(JsonSchema(schema), tokenizer(), (4, 2))
    return Request(token_ids=prompt, params=SamplingParams(max_tokens=80, **params), grammar=grammar)


def finish(engine: Engine, *ids: int) -> list[Scores]:
    """Step until all is done; what each request wrote, with log-probabilities."""
    outputs: dict[int, list[StepOutput]] = {id: [] for id in ids}
    while not engine.is_idle:
        for output in engine.step():
            assert output.error is None
            outputs[output.request_id].append(output)
    return [scores_of(outputs[id]) for id in ids]


def scores_of(outputs: list[StepOutput]) -> Scores:
    """Everything that was written, to the last bit."""
    return [(entry.token_id, entry.logprob) for output in outputs for entry in output.logprobs]


@functools.cache
def alone(cell: Cell, prompt: tuple[int, ...], count: int = 12) -> Scores:
    """What the cell writes after one prompt that is read at once, with nobody beside it and nothing cached."""
    engine = cell.engine()
    return finish(engine, ask(engine, prompt, count))[0]


def same(cell: Cell, actual: list[Scores], wanted: list[Scores]) -> None:
    """Native: to the last bit. Reference: the same tokens; torch's products differ in the last bits with their shape."""
    if cell.ops == "native":
        assert actual == wanted
        return
    assert [[token for token, _ in scores] for scores in actual] == [[t for t, _ in scores] for scores in wanted]
    flat = [np.array([score for scores in many for _, score in scores]) for many in (actual, wanted)]
    np.testing.assert_allclose(*flat, atol=1e-3)
