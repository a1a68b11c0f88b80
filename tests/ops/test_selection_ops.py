"""semantic_kernels, block_scores, select_blocks: native against fp64, bounds that follow from the roundings."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness import (
    LAYER,
    LAYERS,
    WHY_NO_NATIVE,
    dense_cache,
    fill,
    on_every_isa,
    read_sequence,
    reference,
    rows,
    run,
)

from whimbrel.ops.cases import BLOCK_SIZE, StepInputs
from whimbrel.ops.select_blocks.cases import CASES as SELECT_CASES
from whimbrel.ops.select_blocks.cases import SelectCase
from whimbrel.ops.semantic_kernels.cases import CASES as KERNEL_CASES
from whimbrel.ops.semantic_kernels.cases import SemanticKernelsCase

if WHY_NO_NATIVE is None:
    from whimbrel import _native

EVERY_KERNEL_CASE = pytest.mark.parametrize("case", KERNEL_CASES, ids=lambda case: case.name)
EVERY_SELECT_CASE = pytest.mark.parametrize("case", SELECT_CASES, ids=lambda case: case.name)
LONG_CASE = SelectCase(((9000, 1), (5200, 1)), 6, 2, 64, topk=16, window=256)
"""more than two runs of 256 kernels, which threads share out"""


def make_cache(inputs: Any, groups: int, dim: int, kv_dtype: str = "bf16", spare: int = 0) -> Any:
    """A native cache that keeps semantic kernels; its memory is full of what a former owner may have left."""
    pool = _native.KVPool(int(inputs.block_tables.max()) + 1 + spare, LAYERS, groups, dim, kv_dtype, True)
    for block in range(pool.num_blocks):
        pool.block(block)[:] = 0x7E
    codes, scales = pool.kernels()
    codes[:], scales[:] = 0x7E, 0xFF  # NaN
    return SimpleNamespace(pool=pool, num_key_value_heads=groups, head_dim=dim)


def steps(inputs: Any, *ends: Sequence[int]) -> list[StepInputs]:
    """Steps that take each sequence from the tokens of one entry of ``ends`` to those of the next."""
    found = []
    for past, lengths in pairwise(ends):
        new = np.subtract(lengths, past)
        found.append(
            StepInputs(
                token_ids=np.zeros(new.sum(), np.int32),
                positions=np.concatenate([np.arange(p, n, dtype=np.int32) for p, n in zip(past, lengths, strict=True)]),
                cu_seqlens=np.cumsum([0, *new]).astype(np.int32),
                kv_lengths=np.array(lengths, np.int32),
                block_tables=inputs.block_tables,
            )
        )
    return found


def add_kernels(cache: Any, arrays: dict[str, Any], *parts: StepInputs) -> None:
    for inputs in parts:
        arguments = {"inputs": inputs, "sparse": arrays["sparse"], "rope": arrays["rope"]}
        run("semantic_kernels", "native", arguments, cache=cache, layer=LAYER)


def whole(inputs: Any) -> StepInputs:
    """One step that reads everything."""
    return steps(inputs, [0] * len(inputs.kv_lengths), inputs.kv_lengths)[0]


def filled(arrays: dict[str, Any], kv_dtype: str = "bf16", spare: int = 0) -> Any:
    """A native cache with the keys of a case and all their kernels."""
    cache = make_cache(arrays["inputs"], *arrays["keys"][0].shape[1:], kv_dtype, spare)
    fill(cache, arrays["inputs"], arrays["keys"], arrays["keys"])
    add_kernels(cache, arrays, whole(arrays["inputs"]))
    return cache


def read_groups(cache: Any) -> tuple[Any, Any]:
    """Codes [layers, G, blocks, D, 4] as signed numbers and scales [layers, G, blocks, 4] of the pool's own blocks."""
    groups, padded = cache.num_key_value_heads, -(-cache.head_dim // 64) * 64
    codes, scales = cache.pool.kernels()
    codes = codes.reshape(LAYERS, groups, -1, padded // 4, 4, 4, 4).transpose(0, 1, 2, 4, 3, 6, 5)
    scales = scales.view(np.float32).reshape(LAYERS, groups, -1, 4)
    return codes.reshape(LAYERS, groups, -1, padded, 4).astype(int) - 128, scales


def read_kernels(cache: Any, inputs: Any, sequence: int) -> tuple[Any, Any]:
    """Kernels [n, G, D] and scales [n, G] of one sequence, fp64."""
    codes, scales = (part[LAYER][:, inputs.block_tables[sequence]] for part in read_groups(cache))
    assert (
        codes[:, :, cache.head_dim :][np.isfinite(scales)[:, :, None].repeat(codes.shape[2] - cache.head_dim, 2)] == 0
    ).all()
    count = max(0, int(inputs.kv_lengths[sequence]) // 16 - 1)
    kernels = codes[:, :, : cache.head_dim].astype(np.float64) * scales[:, :, None]
    ordered = kernels.transpose(1, 3, 0, 2).reshape(-1, cache.num_key_value_heads, cache.head_dim)
    return ordered[1 : count + 1], scales.transpose(1, 2, 0).reshape(-1, cache.num_key_value_heads)[1 : count + 1]


# semantic_kernels


def key_means(keys: Any, rope: Any, use_nope: bool) -> Any:
    """Means of 32 keys, 16 apart, of keys [L, G, D], as the formula has it."""
    keys = keys.astype(np.float64)
    if use_nope:
        a, b = np.split(keys, 2, -1)
        cos, sin = (table[: len(keys), None].astype(np.float64) for table in (rope.cos, rope.sin))
        keys = np.concatenate([a * cos + b * sin, b * cos - a * sin], -1) / np.tile(cos**2 + sin**2, 2)
    return np.array([keys[i : i + 32].mean(0) for i in range(0, len(keys) - 31, 16)]).reshape(-1, *keys.shape[1:])


@EVERY_KERNEL_CASE
@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
@on_every_isa
def test_kernels_are_means_within_half_a_step_of_8_bits(case: SemanticKernelsCase, kv_dtype: str, isa: str) -> None:
    arrays = case.arrays()
    inputs = arrays["inputs"]
    cache = make_cache(inputs, case.groups, case.dim, kv_dtype)
    fill(cache, inputs, arrays["keys"], arrays["keys"])
    past, lengths = zip(*((past, past + new) for past, new in case.sequences), strict=True)
    add_kernels(cache, arrays, *steps(inputs, [0] * len(past), past, lengths))
    for sequence in range(len(past)):
        kernels, scales = read_kernels(cache, inputs, sequence)
        means = key_means(read_sequence(cache, inputs, sequence)[0], arrays["rope"], case.use_nope)
        np.testing.assert_allclose(scales, abs(means).max(-1) / 127, rtol=1e-4)
        assert (abs(kernels - means) <= 0.501 * scales[..., None]).all()


@EVERY_KERNEL_CASE
@on_every_isa
def test_kernels_that_do_not_end_in_the_step_stay(case: SemanticKernelsCase, isa: str) -> None:
    arrays = case.arrays()
    inputs = arrays["inputs"]
    cache = make_cache(inputs, case.groups, case.dim)
    fill(cache, inputs, arrays["keys"], arrays["keys"])
    add_kernels(cache, arrays, inputs)
    written = ~np.isnan(read_groups(cache)[1])
    expected = np.zeros_like(written)
    for (past, new), table in zip(case.sequences, inputs.block_tables, strict=True):
        for chunk in range(max(1, past // 16), (past + new) // 16):
            expected[LAYER, :, table[chunk // 4], chunk % 4] = True
    np.testing.assert_array_equal(written, expected)
    before = [part.copy() for part in cache.pool.kernels()]
    drafts = replace(inputs, tree_masks=np.ones(len(inputs.positions), np.uint64))
    add_kernels(cache, arrays, drafts)
    for part, old in zip(cache.pool.kernels(), before, strict=True):
        np.testing.assert_array_equal(part, old)


@pytest.mark.parametrize("use_nope", [False, True])
@on_every_isa
def test_kernels_have_the_same_bits_however_the_prompt_was_cut(use_nope: bool, isa: str) -> None:
    arrays = SemanticKernelsCase(((0, 1300),), 2, 64, use_nope=use_nope).arrays()
    inputs = arrays["inputs"]
    stored = []
    for ends in ([0, 1300], [0, 1, 40, 41, 700, 720, 1299, 1300], [*range(0, 1300, 7), 1300]):
        cache = make_cache(inputs, 2, 64)
        fill(cache, inputs, arrays["keys"], arrays["keys"])
        _native.set_num_threads(2)
        add_kernels(cache, arrays, *steps(inputs, *([end] for end in ends)))
        stored.append(np.concatenate(cache.pool.kernels()))
    np.testing.assert_array_equal(stored[1], stored[0])
    np.testing.assert_array_equal(stored[2], stored[0])


# block_scores and select_blocks


def arguments_of(arrays: dict[str, Any]) -> dict[str, Any]:
    return {key: arrays[key] for key in ("q", "inputs", "scale", "sparse", "rope")} | {"layer": LAYER}


def same_kernels(arrays: dict[str, Any], cache: Any) -> Any:
    """A dense fp64 cache with the very kernels that the native one holds."""
    dense = dense_cache(arrays | {"values": arrays["keys"]}, torch.float64)
    for sequence in range(len(arrays["keys"])):
        kernels = torch.from_numpy(read_kernels(cache, arrays["inputs"], sequence)[0])
        dense.write_kernels(LAYER, sequence, 0, kernels, arrays["inputs"])
    return dense


def with_8_bit_queries(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same with queries that 127 steps hold exactly: what is left of the kernel's error is fp32's."""
    step = abs(arrays["q"]).max(-1, keepdims=True) / 127
    return arrays | {"q": (np.round(arrays["q"] / step) * step).astype(np.float32)}


def score_error(arrays: dict[str, Any], cache: Any, exact_queries: bool) -> Any:
    """Largest relative error of a score of each row, [T], that rounding allows.

    A query's rounding to 127 steps moves each number by up to half a step, and so a score s by half a step times the
    kernel's magnitudes; P has s in numerator and normaliser. Two exponentials err by 1e-4 each, and so much again is
    left for fp32.
    """
    inputs = arrays["inputs"]
    error = np.zeros(len(inputs.positions))
    for sequence in range(len(inputs.kv_lengths)):
        kernels = abs(read_kernels(cache, inputs, sequence)[0]).sum(-1).max(initial=0)
        part = rows(inputs, sequence)
        step = 0 if exact_queries else abs(arrays["q"][part]).max((1, 2)) / 127
        turned = 2**0.5 if arrays["sparse"].use_nope else 1  # a pair's larger number may grow so much
        error[part] = np.expm1(2 * arrays["scale"] * step / 2 * turned * kernels + 4e-4)
    return error


def assert_scores(arrays: dict[str, Any], cache: Any, error: Any) -> Any:
    """Compare native scores with fp64 ones, and return the latter."""
    exact = reference("block_scores", arguments_of(arrays), torch.float64, cache=same_kernels(arrays, cache)).numpy()
    actual = run("block_scores", "native", arguments_of(arrays), cache=cache)
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(actual[~finite], exact[~finite])
    allowed = error[:, None] * np.where(finite, exact, 0)
    assert (abs(np.where(finite, actual, 0) - np.where(finite, exact, 0)) <= allowed + 1e-30).all()
    return exact


def assert_lists(lists: Any, exact: Any, arrays: dict[str, Any], error: Any) -> None:
    """Forced blocks, and the best of the others but for near ties; ascending; nothing behind the end."""
    sparse, width = arrays["sparse"], arrays["sparse"].num_blocks
    for row, position in enumerate(arrays["inputs"].positions):
        own = int(position) // BLOCK_SIZE
        dense = position + 1 < sparse.dense_len or own < width
        for group in range(len(lists)):
            chosen = lists[group, row][lists[group, row] >= 0]
            if dense:
                assert len(chosen) == 0
                continue
            np.testing.assert_array_equal(np.unique(chosen), chosen)
            np.testing.assert_array_equal(lists[group, row, : len(chosen)], chosen)
            scores = exact[group, row, : own + 1]
            assert set(np.flatnonzero(scores == np.inf)) <= set(chosen.tolist())
            assert len(chosen) == min(width, (scores > -np.inf).sum())
            last = np.sort(scores)[-len(chosen)]
            assert set(np.flatnonzero(scores > last * (1 + 2 * error[row]))) <= set(chosen.tolist())
            assert (scores[chosen] >= last * (1 - 2 * error[row])).all()


@EVERY_SELECT_CASE
@pytest.mark.parametrize("exact_queries", [True, False], ids=["8-bit-q", "fp32-q"])
@on_every_isa
def test_native_scores_and_lists_follow_the_formula(case: SelectCase, exact_queries: bool, isa: str) -> None:
    exact_queries &= not case.use_nope  # those are turned back before they are rounded
    arrays = with_8_bit_queries(case.arrays()) if exact_queries else case.arrays()
    cache = filled(arrays)
    error = score_error(arrays, cache, exact_queries)
    exact = assert_scores(arrays, cache, error)
    lists = run("select_blocks", "native", arguments_of(arrays), cache=cache)
    wanted = reference("select_blocks", arguments_of(arrays), torch.float64, cache=same_kernels(arrays, cache))
    assert (lists is None) == (wanted is None)
    if lists is not None:
        assert_lists(lists, exact, arrays, error)


@on_every_isa
def test_drafts_see_no_kernel_of_their_step(isa: str) -> None:
    arrays = with_8_bit_queries(SelectCase(((1019, 40), (640, 3)), 6, 2, 64).arrays())
    inputs = arrays["inputs"]
    cache = filled(arrays)
    depths = np.concatenate([np.arange(40) // 2, [0, 1, 1]])
    arrays["inputs"] = replace(
        inputs,
        positions=(np.repeat([1019, 640], [40, 3]) + depths).astype(np.int32),
        tree_masks=np.ones(43, np.uint64),
    )
    error = score_error(arrays, cache, True)
    exact = assert_scores(arrays, cache, error)
    lists = run("select_blocks", "native", arguments_of(arrays), cache=cache)
    assert_lists(lists, exact, arrays, error)


@pytest.mark.parametrize("lse", ["coarse", "exact"])
@pytest.mark.parametrize("size", [30, 300])
@on_every_isa
def test_scores_of_any_size(size: int, lse: str, isa: str) -> None:
    """Scores up to hundreds, where an exponential of the score itself would overflow, and far below zero."""
    arrays = with_8_bit_queries(SelectCase(((5400, 4),), 6, 2, 64, lse=lse).arrays())
    arrays["q"] = (arrays["q"] * np.float32(size / 8)).astype(np.float32)
    cache = filled(arrays)
    actual = run("block_scores", "native", arguments_of(arrays), cache=cache)
    exact = reference("block_scores", arguments_of(arrays), torch.float64, cache=same_kernels(arrays, cache)).numpy()
    # fp32 holds what lies between; the rest is 0 or infinite, as in any fp32 softmax
    held = (exact > 1e-25) & (exact < 1e25)
    assert held.any()
    np.testing.assert_allclose(actual[held], exact[held], rtol=2e-3 * size / 30)
    lists = run("select_blocks", "native", arguments_of(arrays), cache=cache)
    assert (lists >= 0).all() and (np.diff(lists) > 0).all()


@pytest.mark.parametrize("lse", ["coarse", "exact"])
@on_every_isa
def test_equal_scores_go_to_the_lower_block(lse: str, isa: str) -> None:
    arrays = SelectCase(((6000, 2),), 6, 2, 64, topk=8, lse=lse).arrays()
    arrays["keys"] = [np.broadcast_to(part[:1], part.shape).copy() for part in arrays["keys"]]
    lists = run("select_blocks", "native", arguments_of(arrays), cache=filled(arrays))
    assert (lists == [0, 1, 2, 3, 4, 5, 6, 91, 92, 93]).all()


@pytest.mark.parametrize(
    "case", [SELECT_CASES[-6], SELECT_CASES[-4], SELECT_CASES[-2], LONG_CASE], ids=lambda case: case.name
)
@on_every_isa
def test_lists_have_the_same_bits_with_any_number_of_threads(case: SelectCase, isa: str) -> None:
    arrays = case.arrays()
    cache = filled(arrays)
    for op in ("block_scores", "select_blocks"):
        results = []
        for threads in (1, 2, 3):
            _native.set_num_threads(threads)
            results.append(run(op, "native", arguments_of(arrays), cache=cache))
        np.testing.assert_array_equal(results[1], results[0])
        np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("lse", ["coarse", "exact"])
@on_every_isa
def test_rows_have_the_same_bits_alone_and_together(lse: str, isa: str) -> None:
    """Also: a row's scores don't change when its sequence grows."""
    case = SelectCase(((4600, 60), (900, 70)), 6, 2, 64, lse=lse)
    arrays = case.arrays()
    cache = filled(arrays)
    inputs = arrays["inputs"]
    lists = run("select_blocks", "native", arguments_of(arrays), cache=cache)
    _native.set_num_threads(2)
    for sequence, (past, new) in enumerate(case.sequences):
        for first, last in ((0, 1), (1, 7), (7, new)):
            part = inputs.cu_seqlens[sequence] + np.arange(first, last)
            alone = StepInputs(
                token_ids=inputs.token_ids[part],
                positions=inputs.positions[part],
                cu_seqlens=np.array([0, last - first], np.int32),
                kv_lengths=np.array([past + last], np.int32),
                block_tables=inputs.block_tables[sequence : sequence + 1],
            )
            again = run(
                "select_blocks", "native", arguments_of(arrays | {"q": arrays["q"][part], "inputs": alone}), cache=cache
            )
            np.testing.assert_array_equal(again, lists[:, part])


@pytest.mark.parametrize("offset", [0, 4, 1])
@on_every_isa
def test_where_blocks_lie_changes_no_bit(offset: int, isa: str) -> None:
    """Four logical blocks that are one physical group are read as they lie; others are put together first."""
    arrays = LONG_CASE.arrays()
    tables = arrays["inputs"].block_tables
    ordered = np.where(tables >= 0, np.arange(tables.size).reshape(tables.shape) + offset, -1).astype(np.int32)
    straight = arrays | {"inputs": replace(arrays["inputs"], block_tables=ordered)}
    scattered, in_order = (
        run("block_scores", "native", arguments_of(part), cache=filled(part)) for part in (arrays, straight)
    )
    np.testing.assert_array_equal(in_order, scattered)


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
@on_every_isa
def test_attached_blocks_count_like_own_ones(kv_dtype: str, isa: str) -> None:
    """A document of 21 blocks, followed by own blocks whose first kernel begins in it."""
    document, case = 21, SelectCase(((1900, 3),), 6, 2, 64)
    arrays = case.arrays()
    own = filled(arrays, kv_dtype)
    expected = run("block_scores", "native", arguments_of(arrays), cache=own)

    length = np.array([document * BLOCK_SIZE], np.int32)
    straight = replace(arrays["inputs"], block_tables=np.arange(document, dtype=np.int32)[None], kv_lengths=length)
    source = filled(arrays | {"inputs": straight, "keys": [arrays["keys"][0][: length[0]]]}, kv_dtype)

    blocks = arrays["inputs"].block_tables.shape[1]
    cache = make_cache(arrays["inputs"], 2, 64, kv_dtype)
    data = np.concatenate([source.pool.block(block) for block in range(document)])
    codes, scales = (part.copy() for part in source.pool.kernels())
    first = cache.pool.attach(data, codes, scales)
    table = np.concatenate([first + np.arange(document), np.arange(blocks - document)]).astype(np.int32)[None]
    inputs = replace(arrays["inputs"], block_tables=table)
    fill(cache, inputs, arrays["keys"], arrays["keys"])  # the document's blocks once more, with the same bytes
    before = codes.copy()
    add_kernels(cache, arrays, steps(inputs, length, inputs.kv_lengths)[0])
    np.testing.assert_array_equal(codes, before)
    actual = run("block_scores", "native", arguments_of(arrays | {"inputs": inputs}), cache=cache)
    np.testing.assert_array_equal(actual, expected)


@on_every_isa
def test_a_query_that_is_not_a_number_gives_lists_in_range(isa: str) -> None:
    arrays = SelectCase(((2000, 2),), 6, 2, 64).arrays()
    arrays["q"][0, 0, 0], arrays["q"][1] = np.nan, np.inf
    lists = run("select_blocks", "native", arguments_of(arrays), cache=filled(arrays))
    assert (lists < 32).all() and (lists[:, :, 0] == 0).all()
