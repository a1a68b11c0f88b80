"""Invariants 4, 5 and 6 of sparse attention on the reference ops; 2, 3 and 7 are in ``test_sparse_semantics``."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.attention.sparse import SparseConfig
from whimbrel.ops.attend.reference import listed
from whimbrel.ops.attend.reference import run as attend
from whimbrel.ops.select_blocks.reference import run as select_blocks
from whimbrel.ops.semantic_kernels.reference import count, means
from whimbrel.ops.semantic_kernels.reference import run as semantic_kernels

SMALL = SparseConfig(topk=3, window_size=64, dense_len=300)
LENGTH, GROUPS, HEADS, DIM = 700, 2, 6, 16


def part(start: int, stop: int) -> AttentionInputs:
    """Tokens ``start`` to ``stop - 1`` of one sequence."""
    positions = np.arange(start, stop, dtype=np.int32)
    return AttentionInputs(
        token_ids=positions,
        positions=positions,
        cu_seqlens=np.array([0, stop - start], np.int32),
        kv_lengths=np.array([stop], np.int32),
        block_tables=np.zeros((1, 1), np.int32),
    )


@pytest.fixture(scope="module")
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [T, H, D], keys and values [T, G, D]."""
    generator = torch.Generator().manual_seed(3)
    shapes = (LENGTH, HEADS, DIM), (LENGTH, GROUPS, DIM), (LENGTH, GROUPS, DIM)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q, k, v


def read(
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor], cuts: list[int], sparse: SparseConfig
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor | None]]:
    """Outputs [T, H * D], kernels, and lists of each part when the sequence is read in those parts."""
    q, k, v = tensors
    view = DenseView(GROUPS, DIM)
    outputs, lists = [], []
    for start, stop in pairwise([0, *cuts, LENGTH]):
        inputs = part(start, stop)
        view.write(0, k[start:stop], v[start:stop], inputs)
        semantic_kernels(inputs, view, 0, sparse=sparse)
        lists.append(select_blocks(q[start:stop], inputs, view, 0, scale=0.25, sparse=sparse))
        outputs.append(attend(q[start:stop], inputs, view, 0, scale=0.25, blocks=lists[-1]))
    kernels = view.read_kernels(0, 0, count(LENGTH, sparse), part(0, LENGTH))
    return torch.cat(outputs), kernels, lists


@pytest.mark.parametrize("dense_len", [-1, 300])
def test_short_sequences_are_dense_to_the_bit_of_the_mask(
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor], dense_len: int
) -> None:
    """Invariant 4: up to 64 (topk + local) tokens every key is seen; the next one leaves a block out."""
    for topk, window in [(3, 64), (8, 128), (10, 0)]:
        sparse = SparseConfig(topk=topk, window_size=window, dense_len=dense_len)
        edge = 64 * sparse.num_blocks
        _, _, (lists,) = read(tensors, [], sparse)
        seen = torch.ones(GROUPS, LENGTH, LENGTH, dtype=torch.bool) if lists is None else listed(lists, LENGTH)
        causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        first = max(edge, dense_len - 1)
        assert (seen & causal)[:, :first].equal(causal[:first].expand(GROUPS, -1, -1))
        if first < LENGTH:
            assert not (seen & causal)[:, first:].equal(causal[first:].expand(GROUPS, -1, -1))
            assert ((seen & causal)[:, first:].sum(-1) < causal[first:].sum(-1)).all()


@pytest.mark.parametrize("seed", range(8))
def test_kernels_grow_to_what_bulk_gives_and_chunks_to_one_shot(
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor], seed: int
) -> None:
    """Invariants 5 and 6: random cuts, tails shorter than a kernel and than a coarse one, across dense_len and after."""
    rng = np.random.default_rng(seed)
    around = [SMALL.dense_len + offset for offset in (-2, -1, 0, 1)]
    cuts = sorted(
        {int(cut) for cut in rng.integers(1, LENGTH, 6)} | {around[seed % 4], LENGTH - 1 - seed, LENGTH - 100}
    )
    whole, bulk, (lists,) = read(tensors, [], SMALL)
    assert lists is not None
    outputs, kernels, parts = read(tensors, cuts, SMALL)
    assert bulk.equal(means(tensors[1], SMALL))
    assert kernels.equal(bulk)
    for (start, stop), some in zip(pairwise([0, *cuts, LENGTH]), parts, strict=True):
        wanted = lists[:, start:stop]
        assert (wanted == -1).all() if some is None else some.equal(wanted)
    torch.testing.assert_close(outputs, whole, rtol=0, atol=1e-12)


def test_decoding_token_by_token_is_reading(tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    cuts = list(range(230, LENGTH))
    for sparse in (SMALL, replace(SMALL, dense_len=-1, lse="exact")):
        whole, bulk, _ = read(tensors, [], sparse)
        outputs, kernels, _ = read(tensors, cuts, sparse)
        assert kernels.equal(bulk)
        torch.testing.assert_close(outputs, whole, rtol=0, atol=1e-12)
