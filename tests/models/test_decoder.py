"""The decoder on the reference ops: the logits of ``transformers``, whole, in chunks, in batches, and backwards.

The exact result is that of transformers in fp64; ours in fp32 may err twice as much as theirs in fp32.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.models import decoder
from whimbrel.models.config import ModelConfig
from whimbrel.models.params import Params
from whimbrel.models.rope import rope_table
from whimbrel.ops import dispatch
from whimbrel.testing import tiny
from whimbrel.testing.tolerance import assert_as_good_as

torch.set_num_threads(1)
PEER_FAMILIES = ("llama", "qwen2", "qwen3")
ROPE_SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1 + i / 8 for i in range(32)],
        "long_factor": [2 + i / 4 for i in range(32)],
        "original_max_position_embeddings": 256,
    },
}


def step(ids: Any, *, past: int = 0) -> AttentionInputs:
    """One sequence's next tokens."""
    length = len(ids)
    return AttentionInputs(
        token_ids=np.asarray(ids, np.int32),
        positions=np.arange(past, past + length, dtype=np.int32),
        cu_seqlens=np.array([0, length], np.int32),
        kv_lengths=np.array([past + length], np.int32),
        block_tables=np.full((1, 1), -1, np.int32),
    )


def torch_params(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Params:
    def convert(array: Any) -> torch.Tensor:
        return torch.from_numpy(array).to(dtype)

    return tiny.params(config, matrix=convert, vector=convert)


def our_logits(
    config: ModelConfig, params: Params, steps: list[AttentionInputs], cache: DenseView | None = None
) -> Any:
    """Logits of all rows of all steps, after each other; the rotary table is that of the longest context in them."""
    ops = dispatch.bind("reference")
    cache = cache or DenseView(config.num_key_value_heads, config.head_dim)
    rope = rope_table(config, max(int(inputs.kv_lengths.max()) for inputs in steps))
    outputs = [decoder.forward(params, config, ops, rope, inputs, cache) for inputs in steps]
    return decoder.logits(params, config, ops, torch.cat(outputs))


def peer_logits(folder: Any, ids: Any, dtype: torch.dtype) -> Any:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.as_tensor(ids)[None].long()).logits[0]


def random_ids(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, tiny.VOCAB_SIZE, count).astype(np.int32)


@pytest.mark.parametrize(("scaling", "length"), [*((scaling, 131) for scaling in ROPE_SCALINGS), ("longrope", 300)])
@pytest.mark.parametrize("family", PEER_FAMILIES)
def test_logits_are_those_of_transformers(family: str, scaling: str, length: int, tmp_path: Any) -> None:
    changes = {"rope_scaling": ROPE_SCALINGS[scaling]} if ROPE_SCALINGS[scaling] else {}
    folder = tiny.write_checkpoint(tmp_path, family, **changes)
    config = tiny.config(family, **changes)
    ids = random_ids(length)
    actual = our_logits(config, torch_params(config), [step(ids)])
    exact, low = (peer_logits(folder, ids, dtype) for dtype in (torch.float64, torch.float32))
    assert_as_good_as(actual, low, exact)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_chunked_prefill_gives_the_logits_of_one_shot(family: str) -> None:
    config = tiny.config(family)
    params = torch_params(config, torch.float64)
    ids = random_ids(90)
    cuts = (0, 1, 7, 63, 64, 65, 88, 90)
    chunks = [step(ids[first:stop], past=first) for first, stop in pairwise(cuts)]
    torch.testing.assert_close(our_logits(config, params, chunks), our_logits(config, params, [step(ids)]))


def test_sequences_of_one_batch_do_not_see_each_other() -> None:
    config = tiny.config("qwen3")
    params = torch_params(config, torch.float64)
    first, second = random_ids(20, 1), random_ids(33, 2)
    cache = DenseView(config.num_key_value_heads, config.head_dim)
    parts = [((0, 13), (0, 1)), ((13, 20), (1, 33))]
    steps = [
        AttentionInputs(
            token_ids=np.concatenate([first[slice(*a)], second[slice(*b)]]),
            positions=np.concatenate([np.arange(*a), np.arange(*b)]).astype(np.int32),
            cu_seqlens=np.array([0, a[1] - a[0], a[1] - a[0] + b[1] - b[0]], np.int32),
            kv_lengths=np.array([a[1], b[1]], np.int32),
            block_tables=np.full((2, 1), -1, np.int32),
        )
        for a, b in parts
    ]
    together = our_logits(config, params, steps, cache)
    alone = [our_logits(config, params, [step(ids)]) for ids in (first, second)]
    mixed = torch.cat([alone[0][:13], alone[1][:1], alone[0][13:], alone[1][1:]])
    torch.testing.assert_close(together, mixed)


def test_a_rolled_back_cache_continues_as_if_nothing_had_been() -> None:
    config = tiny.config("llama")
    params = torch_params(config, torch.float64)
    ids = random_ids(30)
    steps = [step(ids[:20]), step(random_ids(7, 5), past=20), step(ids[20:], past=20)]
    result = our_logits(config, params, steps)
    torch.testing.assert_close(result[27:], our_logits(config, params, [step(ids)])[20:])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_reach_every_parameter(family: str) -> None:
    """The same function trains: a step against the gradient lowers the loss."""
    config = tiny.config(family)
    arrays: list[torch.Tensor] = []

    def parameter(array: Any) -> torch.Tensor:
        arrays.append(torch.from_numpy(array.copy()).requires_grad_())
        return arrays[-1]

    params = tiny.params(config, matrix=parameter, vector=parameter)
    ids = random_ids(24)

    def loss() -> torch.Tensor:
        scores = our_logits(config, params, [step(ids[:-1])])
        return torch.nn.functional.cross_entropy(scores, torch.from_numpy(ids[1:]).long())

    before = loss()
    before.backward()
    assert all(array.grad is not None and array.grad.abs().max() > 0 for array in arrays)
    size = sum(array.grad.square().sum() for array in arrays if array.grad is not None)
    with torch.no_grad():
        for array in arrays:
            array -= 0.01 / size.sqrt() * array.grad  # type: ignore[operator]
    assert loss() < before
