"""Blocks chosen by sign codes: the formulas against plain loops, what averages miss, and that chunks don't matter."""

import math
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine.limits import check_sparse
from whimbrel.errors import FormatError, UnsupportedModel
from whimbrel.ops import dispatch
from whimbrel.ops.block_scores.reference import coded, mixer, sign_mass
from whimbrel.ops.semantic_kernels.reference import means
from whimbrel.train.sparse_attention import select

SIGNS = SparseConfig(topk=4, window_size=64, dense_len=-1, lse="exact", estimator="signs")
KERNELS = SparseConfig(topk=4, window_size=64, dense_len=-1, lse="exact")
LENGTH, GROUPS, HEADS, DIM = 900, 2, 4, 64


def drawn(seed: int = 0, dim: int = DIM) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [L, H, D] and keys [L, G, D] of one sequence."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(LENGTH, GROUPS, dim, generator=generator)
    return 2 * torch.randn(LENGTH, HEADS, dim, generator=generator), keys + torch.randn(dim, generator=generator)


def lists(q: torch.Tensor, keys: torch.Tensor, sparse: SparseConfig, starts: Sequence[int] = (0,)) -> torch.Tensor:
    """[G, L, K] by the reference ops, in steps that begin at ``starts``."""
    cache, parts = DenseView(GROUPS, keys.shape[-1]), []
    ops = dispatch.bind("reference")
    for start, end in pairwise([*starts, len(keys)]):
        inputs: Any = SimpleNamespace(
            cu_seqlens=np.array([0, end - start]),
            kv_lengths=np.array([end]),
            positions=np.arange(start, end),
            tree_masks=None,
        )
        cache.write(0, keys[start:end], keys[start:end], inputs)
        ops.semantic_kernels(inputs, cache, 0, sparse=sparse)
        found = ops.select_blocks(q[start:end], inputs, cache, 0, scale=q.shape[-1] ** -0.5, sparse=sparse)
        empty = torch.full((GROUPS, end - start, sparse.num_blocks), -1)
        parts.append(empty if found is None else found)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("dim", [64, 80, 96, 128])
def test_the_mixing_is_orthogonal_and_no_channel_stays_alone(dim: int) -> None:
    matrix = mixer(dim)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(dim), atol=1e-5, rtol=0)
    assert matrix.abs().max() <= math.sqrt(2 / dim) + 1e-6


def test_codes_and_masses_are_those_of_the_formulas() -> None:
    q, keys = drawn()
    codes = coded(keys, means(keys, SIGNS), SIGNS)
    assert codes.shape == (LENGTH // 64 * 64, GROUPS, DIM)
    matrix, rows = mixer(DIM).double(), torch.tensor([500, 899])
    masses = sign_mass(q[rows], codes, rows, 15, DIM**-0.5, SIGNS)
    for group in range(GROUPS):
        k = keys[:, group].double()
        centres = torch.stack([k[i // 32 * 32 : i // 32 * 32 + 32].mean(0) for i in range(len(codes))])
        x = (k[: len(codes)] - centres) @ matrix
        signs = torch.where(x < 0, -1.0, 1.0).double()
        approximate = centres + (x.square().sum(1) / x.abs().sum(1))[:, None] * signs @ matrix.T
        torch.testing.assert_close(codes[:, group].double(), approximate, atol=1e-4, rtol=1e-4)
        for row, position in enumerate(rows.tolist()):
            own = position // 64
            wanted = torch.zeros(own, dtype=torch.float64)
            for head in (2 * group, 2 * group + 1):
                weights = torch.exp(approximate[: 64 * own] @ q[position, head].double() / 8)
                wanted += weights.unflatten(0, (-1, 64)).sum(1) / weights.sum()
            torch.testing.assert_close(masses[group, row, :own].double(), wanted, atol=1e-4, rtol=1e-3)
            assert masses[group, row, 14] == torch.inf and not masses[group, row, own:14].any()


def test_a_key_that_its_neighbours_cancel_is_found() -> None:
    """The average of such a pair says nothing of either."""
    q, keys = drawn(1)
    keys[300], keys[301] = 3 * q[-1, 0], -3 * q[-1, 0]
    assert 300 // 64 in lists(q, keys, SIGNS)[0, -1]
    assert 300 // 64 not in lists(q, keys, KERNELS)[0, -1]


@pytest.mark.parametrize("starts", [range(0, LENGTH, 150), range(0, LENGTH, 128), [0, *range(885, LENGTH)]])
def test_chunks_choose_what_one_step_chooses(starts: Sequence[int]) -> None:
    q, keys = drawn(2)
    assert torch.equal(lists(q, keys, SIGNS, starts), lists(q, keys, SIGNS))


def test_training_chooses_what_the_ops_choose() -> None:
    q, keys = drawn(3)
    chosen = select(q.transpose(0, 1), keys.transpose(0, 1), sparse=SIGNS, scale=DIM**-0.5)
    first = SIGNS.num_blocks * 64
    assert torch.equal(chosen[:, first:], lists(q, keys, SIGNS)[:, first:])
    assert not torch.equal(chosen, select(q.transpose(0, 1), keys.transpose(0, 1), sparse=KERNELS, scale=DIM**-0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "guess", "lse": "exact"}, "there are kernels, signs"),
        ({"estimator": "signs"}, "set lse to 'exact'"),
        ({"estimator": "signs", "lse": "exact", "kernel_size": 128, "kernel_stride": 64}, "no multiple of 128"),
    ],
)
def test_what_makes_no_estimator_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        SparseConfig(**changes)


def test_implementations_without_it_say_so() -> None:
    config: Any = SimpleNamespace(sparse=SIGNS)
    check_sparse(config, native=False)
    with pytest.raises(UnsupportedModel, match="ops='reference'"):
        check_sparse(config, native=True)
    op = dispatch.get("select_blocks")
    if op.why_not("native") is None:
        q, cache = np.zeros((1, HEADS, DIM), np.float32), SimpleNamespace(pool=object())
        assert "not by signs" in str(op.why_not("native", q, cache, SIGNS))
        assert op.why_not("native", q, cache, KERNELS) is None
