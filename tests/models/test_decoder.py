"""The decoder on the reference ops: the logits of ``transformers``, whole, in chunks, in batches, and backwards.

The exact result is that of transformers in fp64; ours in fp32 may err twice as much as theirs in fp32.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoding import random_ids, reference_logits, step, torch_params
from safetensors.torch import save_file

from whimbrel.attention.dense_view import DenseView
from whimbrel.models.folding import fold_to_llama
from whimbrel.models.params import Params
from whimbrel.testing import tiny
from whimbrel.testing.tolerance import assert_as_good_as

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


def peer_logits(folder: Any, ids: Any, dtype: torch.dtype) -> Any:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.as_tensor(ids)[None].long()).logits[0]


@pytest.mark.parametrize(("scaling", "length"), [*((scaling, 131) for scaling in ROPE_SCALINGS), ("longrope", 300)])
@pytest.mark.parametrize("family", PEER_FAMILIES)
def test_logits_are_those_of_transformers(family: str, scaling: str, length: int, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rope_scaling": ROPE_SCALINGS[scaling]} if ROPE_SCALINGS[scaling] else {}
    folder = tiny.write_checkpoint(tmp_path, family, **changes)
    config = tiny.config(family, **changes)
    ids = random_ids(length)
    actual = reference_logits(config, torch_params(config), step((ids, 0)))
    exact, low = (peer_logits(folder, ids, dtype) for dtype in (torch.float64, torch.float32))
    assert_as_good_as(actual, low, exact)


@pytest.mark.parametrize("tied", [True, False])
def test_folding_the_mup_scalings_into_the_weights_changes_nothing(tied: bool) -> None:
    """Invariant 1: the folded model is a plain Llama with the logits of the original."""
    config = tiny.config("minicpm", tie_word_embeddings=tied)
    params = torch_params(config, torch.float64)
    folded_config, folded = fold_to_llama(config, params)
    assert (folded_config.scale_emb, folded_config.residual_scale, folded_config.logit_scale) == (1, 1, 1)
    assert folded.lm_head is not folded.embed_tokens and not folded_config.tie_word_embeddings
    inputs = step((random_ids(80), 0))
    original = reference_logits(config, params, inputs)
    torch.testing.assert_close(reference_logits(folded_config, folded, inputs), original, rtol=0, atol=1e-10)
    unscaled = reference_logits(folded_config, params, inputs)
    assert (unscaled - original).abs().max() > 0.1, "the scalings do something"


def test_mup_logits_are_those_of_transformers_on_the_folded_llama(tmp_path: Path) -> None:
    """transformers has no MiniCPM4, but it has the Llama that it folds to."""
    transformers = pytest.importorskip("transformers")
    config = tiny.config("minicpm")
    params = torch_params(config)
    _, folded = fold_to_llama(config, params)
    settings = tiny.hf_config("minicpm") | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    folder = tiny.write_checkpoint(tmp_path)
    save_file(named_tensors(folded), folder / "model.safetensors", metadata={"format": "pt"})
    ids = random_ids(131)
    peers = {}
    for dtype in (torch.float64, torch.float32):
        llama = transformers.LlamaConfig(**settings)
        model = transformers.LlamaForCausalLM.from_pretrained(folder, config=llama, dtype=dtype)
        with torch.no_grad():
            peers[dtype] = model(torch.from_numpy(ids)[None].long()).logits[0]
    actual = reference_logits(config, params, step((ids, 0)))
    assert_as_good_as(actual, peers[torch.float32], peers[torch.float64])


def named_tensors(params: Params) -> dict[str, torch.Tensor]:
    """Hugging Face names of a decoder without biases."""
    tensors = {"model.embed_tokens.weight": params.embed_tokens, "lm_head.weight": params.lm_head}
    tensors["model.norm.weight"] = params.norm
    for index, layer in enumerate(params.layers):
        prefix = f"model.layers.{index}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = getattr(layer, name)
        for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down"))):
            for name in names:
                tensors[f"{prefix}{part}.{name}_proj.weight"] = getattr(layer, f"{name}_proj")
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_chunked_prefill_gives_the_logits_of_one_shot(family: str) -> None:
    config = tiny.config(family)
    params = torch_params(config, torch.float64)
    ids = random_ids(90)
    chunks = [step((ids[first:stop], first)) for first, stop in pairwise((0, 1, 7, 63, 64, 65, 88, 90))]
    whole = reference_logits(config, params, step((ids, 0)))
    torch.testing.assert_close(reference_logits(config, params, *chunks), whole)


def test_sequences_of_one_batch_do_not_see_each_other() -> None:
    config = tiny.config("qwen3")
    params = torch_params(config, torch.float64)
    first, second = random_ids(20, 1), random_ids(33, 2)
    steps = step((first[:13], 0), (second[:1], 0)), step((first[13:], 13), (second[1:], 1))
    together = reference_logits(config, params, *steps)
    alone = [reference_logits(config, params, step((ids, 0))) for ids in (first, second)]
    mixed = torch.cat([alone[0][:13], alone[1][:1], alone[0][13:], alone[1][1:]])
    torch.testing.assert_close(together, mixed)


def test_a_rolled_back_cache_continues_as_if_nothing_had_been() -> None:
    config = tiny.config("llama")
    params = torch_params(config, torch.float64)
    ids = random_ids(30)
    steps = step((ids[:20], 0)), step((random_ids(7, 5), 20)), step((ids[20:], 20))
    whole = reference_logits(config, params, step((ids, 0)))
    torch.testing.assert_close(reference_logits(config, params, *steps)[27:], whole[20:])


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
        cache = DenseView(config.num_key_value_heads, config.head_dim)
        scores = reference_logits(config, params, step((ids[:-1], 0)), cache=cache)
        return torch.nn.functional.cross_entropy(scores, torch.from_numpy(ids[1:].astype(np.int64)))

    before = loss()
    before.backward()  # type: ignore[no-untyped-call]
    assert all(array.grad is not None and array.grad.abs().max() > 0 for array in arrays)
    size = sum(array.grad.square().sum() for array in arrays if array.grad is not None) ** 0.5
    with torch.no_grad():
        for array in arrays:
            array -= 0.01 / size * array.grad  # type: ignore[operator]
    assert loss() < before
