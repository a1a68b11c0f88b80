"""InfLLM v2 in the reference: the tables and the worked example of the specification, to the digit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import FormatError
from whimbrel.ops.attend.reference import listed
from whimbrel.ops.block_scores.reference import force, kernel_mass, pool_to_blocks, visible
from whimbrel.ops.select_blocks.reference import top_blocks
from whimbrel.ops.semantic_kernels.reference import count, means

PUBLISHED = SparseConfig()
SMALL = SparseConfig(kernel_size=4, kernel_stride=2, block_size=8, window_size=8, topk=3, dense_len=-1, lse="exact")
POSITION = 61

EXACT_MASS = """.0887 .0646 .0215 .0198 .1111 .1154 .0417 .0957 .2261 .1073 .0605 .0442 .0253 .0476 .0746 .0906 .0424 .0372
.0791 .0535 .0739 .0530 .0261 .0146 .0235 .0688 .0434 .0140 .0328 .2031 0"""


@pytest.mark.parametrize(
    ("tokens", "fine", "coarse"),
    [(31, 0, 0), (32, 1, 0), (47, 1, 0), (48, 2, 0), (127, 6, 0), (128, 7, 1), (191, 10, 1), (192, 11, 2)]
    + [(8192, 511, 127), (32768, 2047, 511), (131072, 8191, 2047)],
)
def test_how_many_kernels_a_length_has(tokens: int, fine: int, coarse: int) -> None:
    position = torch.tensor([tokens - 1])
    assert count(tokens, PUBLISHED) == fine
    assert int(visible(position, 8200, 32, PUBLISHED).sum()) == fine
    assert int(visible(position, 2100, 128, PUBLISHED, strides=4).sum()) == coarse


def test_a_kernel_is_seen_from_its_last_token_on() -> None:
    seen = visible(torch.arange(200), 12, 32, PUBLISHED)
    assert seen.sum(1).tolist() == [sum(16 * i + 31 <= p for i in range(12)) for p in range(200)]


def test_pooling_covers_exactly_the_kernels_that_overlap_a_block() -> None:
    kernels, blocks = 31, 8
    pooled = pool_to_blocks(torch.eye(kernels)[None], blocks, PUBLISHED)[0]
    for kernel in range(kernels):
        first, last = 16 * kernel // 64, (16 * kernel + 31) // 64
        assert (
            pooled[kernel].nonzero().flatten().tolist() == [b for b in (first, last) if b < blocks][: last - first + 1]
        )


def example(lse: str = "exact") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Masses of the kernels, scores of the blocks, position."""
    torch.manual_seed(0)
    keys, _, q = torch.randn(64, 8), torch.randn(64, 8), torch.randn(2, 8)
    q = q + 2 * keys[19]
    position = torch.tensor([POSITION])
    sparse = SparseConfig(**{**SMALL.to_hf(), "lse": lse})
    mass = kernel_mass(q[None], means(keys[:, None], sparse), position, 8**-0.5, sparse)
    return mass, force(pool_to_blocks(mass, 8, sparse), position, sparse), position


def test_the_worked_example_to_the_digit() -> None:
    mass, scores, _ = example()
    wanted = [float(number) for number in EXACT_MASS.split()]
    assert mass.flatten().tolist() == pytest.approx(wanted, abs=5.1e-5)
    assert mass.sum().item() == pytest.approx(2)
    inf = float("inf")
    assert scores.flatten().tolist() == pytest.approx(
        [inf, 0.1154, 0.2261, 0.0906, 0.0906, 0.0739, inf, inf], abs=5.1e-5
    )


def test_the_worked_example_with_coarse_kernels() -> None:
    mass, scores, _ = example("coarse")
    inf = float("inf")
    assert mass.sum().item() == pytest.approx(11.58, abs=5.1e-3)
    assert scores.flatten().tolist() == pytest.approx(
        [inf, 0.6742, 1.3121, 0.5309, 0.5309, 0.4297, inf, inf], abs=5.1e-5
    )


@pytest.mark.parametrize(("topk", "wanted"), [(3, [0, 2, 6, 7]), (4, [0, 1, 2, 6, 7])])
def test_the_worked_examples_lists(topk: int, wanted: list[int]) -> None:
    _, scores, position = example()
    lists = top_blocks(scores, SparseConfig(**{**SMALL.to_hf(), "topk": topk}))
    assert lists.flatten().tolist() == wanted
    seen = listed(lists, 64, 8)[0, 0] & (torch.arange(64) <= position)
    assert int(seen.sum()) == {4: 30, 5: 38}[len(wanted)]


def test_an_empty_list_sees_everything() -> None:
    lists = torch.tensor([[[-1, -1], [0, -1]]], dtype=torch.int32)
    assert listed(lists, 130).sum(-1).tolist() == [[130, 64]]


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="names block 3, the sequence has 3"):
        listed(torch.tensor([[[0, 3]]], dtype=torch.int32), 130)


@pytest.mark.parametrize(
    "bad", [{"kernel_size": 48}, {"window_size": 100}, {"topk": 1}, {"lse": "none"}, {"block_size": 40}, {"topk": "64"}]
)
def test_impossible_constants_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(FormatError, match="sparse_config"):
        SparseConfig.from_hf(bad)


def test_unknown_constants_are_named() -> None:
    with pytest.raises(FormatError, match="top_k is unknown"):
        SparseConfig.from_hf({"top_k": 3})


def test_the_published_block_is_read_and_written() -> None:
    data = {"kernel_size": 32, "kernel_stride": 16, "init_blocks": 1, "block_size": 64, "window_size": 2048}
    data |= {"topk": 64, "use_nope": False, "dense_len": 8192}
    assert SparseConfig.from_hf(data) == PUBLISHED
    assert SparseConfig.from_hf(PUBLISHED.to_hf()) == PUBLISHED
    assert PUBLISHED.num_blocks == 96


def test_turning_a_key_back_undoes_the_rotation() -> None:
    from whimbrel.ops.rotary_write.reference import rotate
    from whimbrel.ops.semantic_kernels.reference import upright

    angles = np.outer(np.arange(50), 100.0 ** (-np.arange(4) / 4))
    rope = SimpleNamespace(cos=1.06 * np.cos(angles), sin=1.06 * np.sin(angles))
    keys = torch.randn(50, 3, 8, dtype=torch.float64)
    cos, sin = (torch.from_numpy(table)[:, None] for table in (rope.cos, rope.sin))
    torch.testing.assert_close(upright(rotate(keys, cos, sin), rope), keys)
