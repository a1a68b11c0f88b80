"""Counting keys: against the lists that the reference op really makes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.attention.keys import KeyCount, count_keys
from whimbrel.attention.sparse import SparseConfig
from whimbrel.ops.attend.reference import listed
from whimbrel.ops.select_blocks.reference import run as select_blocks
from whimbrel.ops.semantic_kernels.reference import run as semantic_kernels

SMALL = SparseConfig(topk=3, window_size=64, dense_len=128)


@pytest.mark.parametrize("sparse", [SMALL, replace(SMALL, dense_len=400), replace(SMALL, dense_len=-1, window_size=0)])
def test_counts_are_those_of_the_lists(sparse: SparseConfig) -> None:
    length, groups = 517, 2
    torch.manual_seed(0)
    view = DenseView(groups, 16)
    positions = np.arange(length, dtype=np.int32)
    bounds = np.array([0, length], np.int32)
    inputs = AttentionInputs(
        token_ids=positions, positions=positions, cu_seqlens=bounds, kv_lengths=bounds[1:], block_tables=bounds[None]
    )
    view.write(0, torch.randn(length, groups, 16), torch.randn(length, groups, 16), inputs)
    semantic_kernels(inputs, view, 0, sparse=sparse)
    lists = select_blocks(torch.randn(length, 4, 16), inputs, view, 0, scale=0.25, sparse=sparse)
    assert lists is not None
    causal = torch.arange(length) <= torch.arange(length)[:, None]
    attended = (listed(lists, length) & causal).sum(-1)  # [G, T]
    assert (attended[0] == attended[1]).all()
    for start, stop in [(0, length), (0, 0), (3, 4), (255, 258), (256, 320), (300, 301), (399, 401), (130, 517)]:
        found = count_keys(start, stop, sparse)
        assert found.attended == int(attended[0, start:stop].sum())
        assert found.visible == int(causal[start:stop].sum())


@pytest.mark.parametrize(("length", "least"), [(32_768, 0.81), (131_072, 0.95)])
def test_published_sparsity_of_a_decoded_token(length: int, least: float) -> None:
    assert count_keys(length, length + 1, SparseConfig()).sparsity >= least


def test_dense_attention_leaves_nothing_out() -> None:
    assert count_keys(10, 20, None) == KeyCount(155, 155)
    assert count_keys(0, 8191, SparseConfig()).sparsity == 0
    assert KeyCount().sparsity == 0 and KeyCount(4, 1) + KeyCount(4, 3) == KeyCount(8, 4)
