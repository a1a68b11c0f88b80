"""The Triton kernels against the references: compiled on CUDA, or on the CPU under the interpreter, in its own process.

`make test-interp` runs this file with TRITON_INTERPRET=1, `make test-gpu` compiled; elsewhere it is skipped. The cases
are those of the ops; the interpreter takes seconds for the larger ones, which `make test` leaves out.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness import LAYER, dense_cache, run, to_torch

from whimbrel.ops.attend.cases import CASES as ATTEND_CASES
from whimbrel.ops.attend.cases import AttendCase
from whimbrel.ops.cases import StepInputs
from whimbrel.ops.select_blocks import reference as select_reference
from whimbrel.ops.select_blocks.cases import CASES as SELECT_CASES
from whimbrel.ops.select_blocks.cases import SelectCase
from whimbrel.ops.semantic_kernels.cases import CASES as KERNEL_CASES
from whimbrel.testing.tolerance import assert_as_good_as

triton_ops = pytest.importorskip("whimbrel.ops.triton", exc_type=ImportError)
from whimbrel.ops.attend import triton as attend_triton

pytestmark = [
    pytest.mark.interp,
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (triton_ops.INTERPRETED or torch.cuda.is_available()), reason=str(triton_ops.why_not_here())
    ),
]
DEVICE = "cpu" if triton_ops.INTERPRETED else "cuda"
LOW = torch.float16 if triton_ops.INTERPRETED else torch.bfloat16
"""The interpreter holds bf16 as integers, and multiplies those."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, LOW], ids=["fp32", "low"])


def cases(every: tuple[Any, ...], work: Any, most: int) -> Any:
    """All of them; those whose ``work`` exceeds ``most`` are slow under the interpreter."""
    marked = [
        pytest.param(
            case, id=case.name, marks=[pytest.mark.slow] if triton_ops.INTERPRETED and work(case) > most else []
        )
        for case in every
    ]
    return pytest.mark.parametrize("case", marked)


def scores(case: Any) -> int:
    """What the interpreter's time follows, more or less."""
    return sum(new * (past + new) for past, new in case.sequences) * case.heads


@pytest.fixture(autouse=True)
def nan_in_new_memory() -> Iterator[None]:
    """What torch allocates uninitialised is NaN; integers are their largest."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def cache_of(arrays: dict[str, Any], dtype: torch.dtype) -> Any:
    """A dense cache on the device."""
    cache = dense_cache({"values": arrays["keys"]} | arrays, dtype)
    cache._stored = {at: (keys.to(DEVICE), values.to(DEVICE)) for at, (keys, values) in cache._stored.items()}
    return cache


def on_device(arrays: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments but keys and values, as tensors there."""
    arguments = {key: value for key, value in arrays.items() if key not in ("keys", "values")}
    return arguments | {"q": torch.from_numpy(arrays["q"]).to(DEVICE, dtype), "layer": LAYER}


def random_lists(inputs: StepInputs, groups: int, width: int, *, empty: float = 0.0, seed: int = 0) -> Any:
    """Ascending lists with each row's own block; a share of them empty, some of them shorter than ``width``."""
    rng = np.random.default_rng(seed)
    lists = np.full((groups, len(inputs.positions), width), -1, np.int32)
    for group in range(groups):
        for row, position in enumerate(inputs.positions):
            if rng.random() >= empty:
                own = int(position) // 64
                others = rng.permutation(own)[: rng.integers(0, width)]
                chosen = np.sort(np.append(others, own))
                lists[group, row, : len(chosen)] = chosen
    return lists


# attend


@cases(ATTEND_CASES, scores, 9000)
@DTYPES
def test_attend_is_as_good_as_low_precision(case: AttendCase, dtype: torch.dtype) -> None:
    """Dense and listed rows, decoding and prefill, trees of drafts."""
    arrays = case.arrays()
    actual = run("attend", "triton", on_device(arrays, dtype), cache=cache_of(arrays, dtype)).cpu()
    arguments = {key: value for key, value in arrays.items() if key not in ("keys", "values")} | {"layer": LAYER}
    low, exact = (
        run("attend", "reference", to_torch(arguments, kind), cache=dense_cache(arrays, kind))
        for kind in (dtype, torch.float64)
    )
    assert actual.dtype == dtype
    # fp32: blocks are added one after the other, torch's products have many partial sums
    assert_as_good_as(actual, low, exact, factor=4 if dtype == torch.float32 else 2)


@pytest.mark.parametrize("tokens", [pytest.param(1, marks=pytest.mark.slow), 2, 4, 16])
def test_neighbours_in_one_tile_keep_their_own_lists(tokens: int) -> None:
    case = AttendCase(((210, 30),), 6, 2, 64)
    arrays = case.arrays()
    lists = torch.from_numpy(random_lists(arrays["inputs"], 2, 3)).to(DEVICE)
    q, k, v = (
        torch.from_numpy(part).to(DEVICE).transpose(0, 1)
        for part in (arrays["q"], arrays["keys"][0], arrays["values"][0])
    )
    together = attend_triton.listed_attention(q, k, v, lists, scale=case.dim**-0.5, tokens=tokens)
    arguments = to_torch({key: arrays[key] for key in ("q", "inputs", "scale")}, torch.float64)
    exact = run(
        "attend", "reference", arguments, cache=dense_cache(arrays, torch.float64), layer=LAYER, blocks=lists.cpu()
    )
    torch.testing.assert_close(together.transpose(0, 1).flatten(1).cpu().double(), exact, rtol=1e-5, atol=1e-5)


def test_tile_lists_are_the_union_with_a_bit_for_each_token() -> None:
    lists = torch.tensor([[[0, 2, 3], [2, 5, -1], [0, 3, 5], [1, -1, -1], [4, 5, 6]]], dtype=torch.int32)
    tiles = attend_triton.TileLists.of(lists, 2)
    assert tiles.counts.tolist() == [[4, 4, 3]]
    assert tiles.names[0, 0, :4].tolist() == [0, 2, 3, 5]
    assert tiles.members[0, 0, :4].tolist() == [0b01, 0b11, 0b01, 0b10]
    assert tiles.names[0, 1, :4].tolist() == [0, 1, 3, 5]
    assert tiles.members[0, 1, :4].tolist() == [0b01, 0b10, 0b01, 0b01]
    starts, choosers, members = tiles.transposed(7)
    assert starts.tolist() == [0, 2, 3, 4, 6, 7, 10, 11]
    assert choosers[:11].tolist() == [0, 1, 1, 0, 0, 1, 2, 0, 1, 2, 2]
    assert members[7:10].tolist() == [0b10, 0b01, 0b01]


@pytest.mark.parametrize("listed", [False, True])
def test_a_decoding_row_reports_what_it_read(listed: bool) -> None:
    case = AttendCase(((300, 1), (0, 5)), 6, 2, 64)
    arrays = case.arrays()
    blocks = random_lists(arrays["inputs"], 2, 3) if listed else None
    results = {}
    for impl in ("triton", "reference"):
        mass = np.zeros((2, 2, 5), np.float32)
        inputs = replace(arrays["inputs"], block_mass=mass)
        run(
            "attend",
            impl,
            on_device(arrays, torch.float32) | {"inputs": inputs, "blocks": blocks},
            cache=cache_of(arrays, torch.float32),
        )
        results[impl] = mass
    np.testing.assert_allclose(results["triton"], results["reference"], rtol=1e-5, atol=1e-6)
    assert results["triton"][0].sum() == pytest.approx(6, rel=1e-5)
    assert not results["triton"][1].any()


def test_a_block_that_the_sequence_lacks_is_refused() -> None:
    arrays = AttendCase(((130, 1),), 4, 2, 64).arrays()
    blocks = np.array([[[0, 2]], [[1, 3]]], np.int32)
    with pytest.raises(ValueError, match="names block 3, the sequence has 3"):
        run(
            "attend",
            "triton",
            on_device(arrays, torch.float32) | {"blocks": blocks},
            cache=cache_of(arrays, torch.float32),
        )


# gradients


def gradients(function: Any, *tensors: torch.Tensor) -> list[Any]:
    """Of a fixed projection of the result, in each tensor."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    weights = torch.sin(torch.arange(out.numel(), device=out.device)).to(out.dtype).reshape(out.shape)
    return [gradient.cpu() for gradient in torch.autograd.grad((out * weights).sum(), leaves)]


GRADIENT_CASES = (
    AttendCase(((64, 3),), 6, 2, 64),
    *(AttendCase(((70, 9),), 2 * share, 2, 64) for share in (1, 3, 8, 16)),
    *(AttendCase(((130, 7),), 6, 2, dim) for dim in (80, 96, 128)),
    AttendCase(((0, 65), (130, 1)), 6, 2, 64),
    AttendCase(((0, 150),), 3, 1, 64),
)


@cases(GRADIENT_CASES, scores, 1500)
@pytest.mark.parametrize("kind", ["dense", "listed", "mixed"])
def test_gradients_in_queries_keys_and_values(case: AttendCase, kind: str) -> None:
    """Through the cache, as the references' are tested; twice, because nothing is added atomically."""
    arrays = case.arrays()
    blocks = None
    if kind != "dense":
        blocks = random_lists(arrays["inputs"], case.groups, 2, empty=0.4 if kind == "mixed" else 0)
    count = len(case.sequences)

    def function(impl: str) -> Any:
        def attend(q: Any, *parts: Any) -> Any:
            view = SimpleNamespace(
                pool=None, read=lambda layer, sequence, inputs: (parts[sequence], parts[count + sequence])
            )
            arguments = {"q": q, "inputs": arrays["inputs"], "cache": view, "layer": 0, "scale": arrays["scale"]}
            return run("attend", impl, arguments, blocks=blocks)

        return attend

    tensors = [torch.from_numpy(part) for part in (arrays["q"], *arrays["keys"], *arrays["values"])]
    there = [tensor.to(DEVICE) for tensor in tensors]
    actual = gradients(function("triton"), *there)
    low = gradients(function("reference"), *tensors)
    exact = gradients(function("reference"), *(tensor.double() for tensor in tensors))
    for again, *three in zip(gradients(function("triton"), *there), actual, low, exact, strict=True):
        torch.testing.assert_close(again, three[0], rtol=0, atol=0)
        assert_as_good_as(*three, factor=4)  # sums over blocks one after the other; torch's have many partial sums


# selection


@cases(KERNEL_CASES, lambda case: max(new for _, new in case.sequences), 130)
def test_semantic_kernels_are_means(case: Any) -> None:
    arrays = case.arrays()
    written = {}
    for impl in ("triton", "reference"):
        cache = cache_of(arrays, torch.float32)
        arguments = {key: arrays[key] for key in ("inputs", "sparse", "rope")}
        for sequence, (past, _) in enumerate(case.sequences):  # those of earlier steps
            cache._kernels[LAYER, sequence] = torch.zeros(
                max(0, (past - 32) // 16 + 1), case.groups, case.dim, device=DEVICE
            )
        run("semantic_kernels", impl, arguments, cache=cache, layer=LAYER)
        written[impl] = cache._kernels
    assert written["triton"].keys() == written["reference"].keys()
    for at, kernels in written["reference"].items():
        torch.testing.assert_close(written["triton"][at], kernels, rtol=1e-6, atol=1e-6)


def with_kernels(case: SelectCase, dtype: torch.dtype, device: str = DEVICE) -> tuple[dict[str, Any], Any]:
    """Arguments of the selection, and a cache whose semantic kernels are those of all keys."""
    arrays = case.arrays()
    cache = cache_of(arrays, dtype)
    lengths = np.array([len(part) for part in arrays["keys"]], np.int32)
    everything = SimpleNamespace(
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]), kv_lengths=lengths, tree_masks=None
    )
    rope = arrays["rope"]
    run(
        "semantic_kernels",
        "reference",
        {"inputs": everything, "sparse": arrays["sparse"], "rope": rope},
        cache=cache,
        layer=LAYER,
    )
    return on_device(arrays, dtype), cache


def in_fp64(case: SelectCase) -> torch.Tensor:
    arguments, cache = with_kernels(case, torch.float64)
    scores: torch.Tensor = run("block_scores", "reference", arguments, cache=cache)
    return scores.cpu()


@cases(SELECT_CASES, scores, 13000)
def test_block_scores_and_the_blocks_chosen_by_them(case: SelectCase) -> None:
    arguments, cache = with_kernels(case, torch.float32)
    actual = run("block_scores", "triton", arguments, cache=cache).cpu()
    low, exact = run("block_scores", "reference", arguments, cache=cache).cpu(), in_fp64(case)
    finite = torch.isfinite(exact)
    torch.testing.assert_close(actual.double()[~finite], exact[~finite])
    relative = exact[finite].clamp(min=1e-30)
    assert_as_good_as(
        actual.double()[finite] / relative, low.double()[finite] / relative, exact[finite] / relative, factor=4
    )

    lists = run("select_blocks", "triton", arguments, cache=cache)
    expected = run("select_blocks", "reference", arguments, cache=cache)
    assert (lists is None) == (expected is None)
    if lists is None:
        return
    # those of its own scores, exactly; those of the reference but for ties that rounding decides
    sparse = arguments["sparse"]
    dense = (expected[0, :, 0] < 0).cpu()
    own = select_reference.top_blocks(actual, sparse).masked_fill(dense[:, None], -1)
    torch.testing.assert_close(lists.cpu(), own, rtol=0, atol=0)
    assert (lists == expected).float().mean() > 0.99


def test_ties_go_to_the_lower_block() -> None:
    from whimbrel.ops.select_blocks import triton as select_triton

    scores = torch.tensor([[[torch.inf, 0.5, 0.25, 0.5, 0.25, 0.25, 0, 0, -torch.inf], [torch.inf, *[0.0] * 8]]])
    lists = torch.full((1, 2, 4), -1, dtype=torch.int32, device=DEVICE)
    positions = torch.tensor([8 * 64, 8 * 64], dtype=torch.int32, device=DEVICE)
    select_triton.top_blocks(scores.to(DEVICE), positions, lists, 0)
    assert lists.tolist() == [[[0, 1, 2, 3], [0, 1, 2, 3]]]
