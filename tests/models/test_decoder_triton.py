"""The decoder on a table of Triton kernels: what the reference gives, in a prompt and in the steps after it."""

from dataclasses import replace

import pytest
import torch
from decoding import random_ids, reference_logits, run, step, torch_params

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.sparse import SparseConfig
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

triton = pytest.importorskip("whimbrel.ops.triton", exc_type=ImportError)


@pytest.mark.interp
@pytest.mark.slow
@pytest.mark.skipif(not triton.INTERPRETED, reason="the decoder's parameters are on the CPU")
def test_a_sparse_decoder_on_triton_gives_the_logits_of_the_reference() -> None:
    sparse = SparseConfig(topk=2, window_size=64, dense_len=200, lse="exact")
    config = replace(tiny.config("llama"), sparse=sparse)
    params, ids = torch_params(config), random_ids(230)
    steps = [step((ids[:220], 0)), *(step((ids[at : at + 1], at)) for at in range(220, 223))]
    cache = DenseView(config.num_key_value_heads, config.head_dim)
    ops = dispatch.bind("triton")
    assert ops.implementations["attend"] == "triton"
    assert ops.implementations["norm_linear"] == "reference"
    with torch.no_grad():
        actual = torch.cat(run(config, params, ops, steps, cache))
        expected = reference_logits(config, params, *steps)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    whole = reference_logits(replace(config, sparse=None), params, *steps)
    assert not torch.allclose(actual[-1], whole[-1], atol=1e-2)
