"""rotary_write and attend: every case against fp64, over a dense cache and a native pool."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from harness import (
    LAYER,
    WHY_NO_NATIVE,
    dense_cache,
    fill,
    native_cache,
    needs_native,
    on_every_isa,
    read_block,
    read_sequence,
    reference,
    rows,
    run,
)

from whimbrel.attention.dense_view import DenseView
from whimbrel.ops.attend.cases import CASES as ATTEND_CASES
from whimbrel.ops.attend.cases import AttendCase
from whimbrel.ops.cases import StepInputs
from whimbrel.ops.rotary_write.cases import CASES as ROTARY_CASES
from whimbrel.ops.rotary_write.cases import RotaryWriteCase
from whimbrel.testing.tolerance import assert_as_good_as

if WHY_NO_NATIVE is None:
    from whimbrel import _native

EVERY_ATTEND_CASE = pytest.mark.parametrize("case", ATTEND_CASES, ids=lambda case: case.name)
EVERY_ROTARY_CASE = pytest.mark.parametrize("case", ROTARY_CASES, ids=lambda case: case.name)
KV_DTYPES = pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])


# attend


def attend_arguments(arrays: dict[str, Any]) -> dict[str, Any]:
    return {key: arrays[key] for key in ("q", "inputs", "scale", "blocks")} | {"layer": LAYER}


def attend_reference(arrays: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """Attention over keys and values rounded to ``dtype``, computed in it."""
    return reference("attend", attend_arguments(arrays), dtype, cache=dense_cache(arrays, dtype))


def attend_native(arrays: dict[str, Any], kv_dtype: str) -> Any:
    groups, dim = arrays["keys"][0].shape[1:]
    cache = native_cache(arrays["inputs"], groups, dim, kv_dtype)
    fill(cache, arrays["inputs"], arrays["keys"], arrays["values"])
    return run("attend", "native", attend_arguments(arrays), cache=cache)


def round_to_q8(values: Any) -> Any:
    """127 steps per token and head."""
    step = abs(values).max(-1, keepdims=True) / 127
    return ((values / step).round() * step).astype(np.float32)


STORED_AS = {"bf16": lambda values: values.bfloat16(), "q8": lambda values: round_to_q8(values.numpy())}
"""What a cache of that type keeps of fp64 values."""


def seen_keys(arrays: dict[str, Any], sequence: int, row: int, group: int) -> list[int]:
    """What the specification lets a row see, key by key."""
    inputs, part = arrays["inputs"], rows(arrays["inputs"], sequence)
    past = int(inputs.kv_lengths[sequence]) - (part.stop - part.start)
    lists = arrays["blocks"]
    listed = set() if lists is None else set(lists[group, row].tolist()) - {-1}
    if inputs.tree_masks is None:
        visible = list(range(past + row - part.start + 1))
    else:
        mask = int(inputs.tree_masks[row])
        visible = [*range(past), *(past + bit for bit in range(part.stop - part.start) if mask >> bit & 1)]
    return [key for key in visible if not listed or key // 64 in listed]


@EVERY_ATTEND_CASE
def test_attend_reference_is_softmax_of_scores_key_by_key(case: AttendCase) -> None:
    arrays = case.arrays()
    result = attend_reference(arrays, torch.float64).reshape(-1, case.heads, case.dim)
    share = case.heads // case.groups
    for sequence in range(len(case.sequences)):
        part = rows(arrays["inputs"], sequence)
        for row in {part.start, part.stop - 1}:
            for head in (0, case.heads - 1):
                seen = seen_keys(arrays, sequence, row, head // share)
                keys, values = (arrays[name][sequence][seen, head // share] for name in ("keys", "values"))
                weights = np.exp(arrays["scale"] * (keys.astype(np.float64) @ arrays["q"][row, head]))
                expected = weights / weights.sum() @ values
                torch.testing.assert_close(result[row, head], torch.from_numpy(expected))


@EVERY_ATTEND_CASE
@KV_DTYPES
@on_every_isa
def test_attend_native_is_as_good_as_low_precision(case: AttendCase, kv_dtype: str, isa: str) -> None:
    """The exact result is that of the unrounded cache: rounding keys and values is the kernel's error, too."""
    arrays = case.arrays()
    exact = attend_reference(arrays, torch.float64)
    low = attend_reference(arrays, torch.bfloat16)
    if kv_dtype == "q8":
        rounded = {name: [round_to_q8(part) for part in arrays[name]] for name in ("keys", "values")}
        q8 = attend_reference(arrays | rounded, torch.bfloat16)
        low = q8 if (q8 - exact).abs().max() > (low - exact).abs().max() else low
    assert_as_good_as(attend_native(arrays, kv_dtype), low, exact)


@EVERY_ATTEND_CASE
@KV_DTYPES
@on_every_isa
def test_threads_do_not_change_a_bit(case: AttendCase, kv_dtype: str, isa: str) -> None:
    results = []
    for threads in (1, 2):
        _native.set_num_threads(threads)
        results.append(attend_native(case.arrays(), kv_dtype))
    np.testing.assert_array_equal(*results)


def only(inputs: StepInputs, sequence: int, first: int, stop: int) -> StepInputs:
    """The step with nothing but rows ``first`` to ``stop`` of one sequence, as a chunk of a prefill would have it."""
    part = rows(inputs, sequence)
    missing = part.stop - stop
    return replace(
        inputs,
        token_ids=inputs.token_ids[first:stop],
        positions=inputs.positions[first:stop],
        cu_seqlens=np.array([0, stop - first], np.int32),
        kv_lengths=inputs.kv_lengths[sequence : sequence + 1] - np.int32(missing),
        block_tables=inputs.block_tables[sequence : sequence + 1],
        tree_masks=None if inputs.tree_masks is None else inputs.tree_masks[first:stop],
    )


def chunks(case: AttendCase, part: slice) -> list[tuple[int, int]]:
    """Single rows and runs of them; a tree of drafts is always verified whole."""
    if case.tree:
        return [(part.start, part.stop)]
    starts = range(part.start, part.stop, 29)
    return [(first, stop) for first in starts for stop in {first + 1, min(first + 29, part.stop)}]


@EVERY_ATTEND_CASE
@KV_DTYPES
@on_every_isa
def test_a_row_depends_neither_on_the_batch_nor_on_chunks(case: AttendCase, kv_dtype: str, isa: str) -> None:
    arrays = case.arrays()
    inputs = arrays["inputs"]
    cache = native_cache(inputs, case.groups, case.dim, kv_dtype)
    fill(cache, inputs, arrays["keys"], arrays["values"])
    together = run("attend", "native", attend_arguments(arrays), cache=cache)
    for sequence in range(len(case.sequences)):
        for first, stop in chunks(case, rows(inputs, sequence)):
            chunk = attend_arguments(arrays) | {
                "q": arrays["q"][first:stop],
                "inputs": only(inputs, sequence, first, stop),
                "blocks": None if arrays["blocks"] is None else arrays["blocks"][:, first:stop],
            }
            alone = run("attend", "native", chunk, cache=cache)
            np.testing.assert_array_equal(alone, together[first:stop])


MASS_CASES = pytest.mark.parametrize(
    "case", [case for case in ATTEND_CASES if any(new == 1 for _, new in case.sequences)], ids=lambda case: case.name
)


def masses(arrays: dict[str, Any], impl: str, cache: Any) -> tuple[Any, Any]:
    """The op's result, and the masses that it added to ones."""
    inputs = arrays["inputs"]
    mass = np.ones((len(inputs.kv_lengths), arrays["keys"][0].shape[1], inputs.block_tables.shape[1]), np.float32)
    arguments = attend_arguments(arrays) | {"inputs": replace(inputs, block_mass=mass)}
    if impl == "reference":
        return reference("attend", arguments, torch.float64, cache=cache), mass - 1
    return run("attend", impl, arguments, cache=cache), mass - 1


@MASS_CASES
@KV_DTYPES
@on_every_isa
def test_block_mass_is_what_single_rows_give_to_each_block(case: AttendCase, kv_dtype: str, isa: str) -> None:
    arrays = case.arrays()
    inputs = arrays["inputs"]
    _, exact = masses(arrays, "reference", dense_cache(arrays, torch.float64))
    cache = native_cache(inputs, case.groups, case.dim, kv_dtype)
    fill(cache, inputs, arrays["keys"], arrays["values"])
    for threads in (1, 2):
        _native.set_num_threads(threads)
        result, mass = masses(arrays, "native", cache)
        np.testing.assert_array_equal(result, run("attend", "native", attend_arguments(arrays), cache=cache))
        np.testing.assert_allclose(mass, exact, rtol=0, atol=0.01 * case.heads / case.groups)
        single = np.array([new == 1 for _, new in case.sequences])
        np.testing.assert_allclose(mass.sum(-1)[single], case.heads / case.groups, rtol=1e-5)
        assert not mass[~single].any()


def chain(rows: int) -> Any:
    """Masks of a tree that is a sequence."""
    return np.array([(2 << row) - 1 for row in range(rows)], np.uint64)


@pytest.mark.parametrize("lists", ["", "gaps", "mixed"])
@KV_DTYPES
@on_every_isa
def test_a_tree_without_branches_is_a_sequence(lists: str, kv_dtype: str, isa: str) -> None:
    case = AttendCase(((250, 20), (0, 3), (90, 64)), 6, 2, 64, lists=lists)
    arrays = case.arrays()
    masks = np.concatenate([chain(new) for _, new in case.sequences])
    tree = arrays | {"inputs": replace(arrays["inputs"], tree_masks=masks)}
    np.testing.assert_array_equal(attend_native(tree, kv_dtype), attend_native(arrays, kv_dtype))


def test_reference_with_every_block_listed_is_dense_to_the_bit() -> None:
    arrays = AttendCase(((500, 70), (0, 3)), 6, 2, 64, lists="all").arrays()
    torch.testing.assert_close(
        attend_reference(arrays, torch.float64),
        attend_reference(arrays | {"blocks": None}, torch.float64),
        rtol=0,
        atol=0,
    )


@KV_DTYPES
@on_every_isa
def test_native_with_every_block_listed_is_nearly_dense(kv_dtype: str, isa: str) -> None:
    """Both round probabilities to bf16, relative to the largest of 64 or of 256 keys."""
    arrays = AttendCase(((500, 70), (0, 3)), 6, 2, 64, lists="all").arrays()
    listed, dense = attend_native(arrays, kv_dtype), attend_native(arrays | {"blocks": None}, kv_dtype)
    assert np.abs(listed - dense).max() < 2**-8 * np.abs(dense).max()


@pytest.mark.parametrize("impl", ["reference", pytest.param("native", marks=needs_native)])
def test_a_list_that_names_a_block_beyond_the_sequence_is_refused(impl: str) -> None:
    arrays = AttendCase(((100, 2),), 6, 2, 64, lists="own").arrays()
    arrays["blocks"][1, 0, :2] = [1, 2]
    with pytest.raises(ValueError, match="block list"):
        attend_reference(arrays, torch.float64) if impl == "reference" else attend_native(arrays, "bf16")


@needs_native
def test_a_list_that_does_not_ascend_is_refused() -> None:
    arrays = AttendCase(((100, 2),), 6, 2, 64, lists="own").arrays()
    arrays["blocks"][1, 0, :2] = [1, 0]
    with pytest.raises(ValueError, match="ascend"):
        attend_native(arrays, "bf16")


# rotary_write


def written(case: RotaryWriteCase, arrays: dict[str, Any], dtype: torch.dtype) -> tuple[torch.Tensor, DenseView]:
    """Rotated queries, and a dense cache whose earlier tokens are zero."""
    inputs, cache = arrays["inputs"], DenseView(case.groups, case.dim)
    past = inputs.kv_lengths - np.diff(inputs.cu_seqlens)
    before = replace(inputs, kv_lengths=past, cu_seqlens=np.cumsum([0, *past]).astype(np.int32))
    zeros = torch.zeros(int(past.sum()), case.groups, case.dim, dtype=dtype)
    cache.write(LAYER, zeros, zeros, before)
    return reference("rotary_write", arrays, dtype, cache=cache, layer=LAYER), cache


@EVERY_ROTARY_CASE
def test_rotary_reference_turns_each_pair_by_its_angle(case: RotaryWriteCase) -> None:
    arrays = case.arrays()
    q, cache = written(case, arrays, torch.float64)
    raw = arrays["qkv"].astype(np.float64).reshape(len(q), -1, case.dim)
    angles = arrays["inputs"].positions[:, None] * 10000.0 ** (-np.arange(0, case.dim, 2) / case.dim)

    def turned(heads: Any, norm: Any) -> Any:
        if norm is not None:
            heads = heads / np.sqrt(np.square(heads).mean(-1, keepdims=True) + arrays["eps"]) * norm
        pairs = (heads[..., : case.dim // 2] + 1j * heads[..., case.dim // 2 :]) * np.exp(1j * angles)[:, None]
        return np.concatenate([pairs.real, pairs.imag], -1)

    k = turned(raw[:, case.heads : case.heads + case.groups], arrays["k_norm"])
    np.testing.assert_allclose(q, turned(raw[:, : case.heads], arrays["q_norm"]), rtol=0, atol=1e-5)
    for sequence, (past, _) in enumerate(case.sequences):
        keys, values = cache.read(LAYER, sequence, arrays["inputs"])
        part = rows(arrays["inputs"], sequence)
        np.testing.assert_allclose(keys[past:], k[part], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(values[past:], raw[part, case.heads + case.groups :])
        assert not keys[:past].any()


@EVERY_ROTARY_CASE
@KV_DTYPES
@on_every_isa
def test_rotary_native_gives_queries_and_stores_keys_and_values(case: RotaryWriteCase, kv_dtype: str, isa: str) -> None:
    arrays = case.arrays()
    inputs = arrays["inputs"]
    cache = native_cache(inputs, case.groups, case.dim, kv_dtype)
    actual = run("rotary_write", "native", arrays, cache=cache, layer=LAYER)
    (exact, exact_cache), (low, _) = (written(case, arrays, dtype) for dtype in (torch.float64, torch.float32))
    assert_as_good_as(actual, low, exact)
    for sequence, (past, _) in enumerate(case.sequences):
        stored = read_sequence(cache, inputs, sequence)[:, past:]
        wanted = torch.stack(exact_cache.read(LAYER, sequence, inputs))[:, past:]
        assert_as_good_as(stored, STORED_AS[kv_dtype](wanted), wanted)


@EVERY_ROTARY_CASE
@KV_DTYPES
@on_every_isa
def test_rotary_native_writes_nothing_else(case: RotaryWriteCase, kv_dtype: str, isa: str) -> None:
    """Only a block that this step begins may have its other positions cleared: a NaN there would survive a zero weight."""
    arrays = case.arrays()
    inputs = arrays["inputs"]
    cache = native_cache(inputs, case.groups, case.dim, kv_dtype)
    noise = np.random.default_rng(1)
    for block in range(cache.pool.num_blocks):
        cache.pool.block(block)[:] = noise.integers(0, 100, cache.pool.block_bytes)
    other_layer = [read_block(cache, block, 1 - LAYER) for block in range(cache.pool.num_blocks)]
    before = [read_block(cache, block) for block in range(cache.pool.num_blocks)]
    run("rotary_write", "native", arrays, cache=cache, layer=LAYER)
    for (past, new), table in zip(case.sequences, inputs.block_tables, strict=True):
        for index, block in enumerate(table[table >= 0].tolist()):
            after, first = read_block(cache, block), index * 64
            kept = [slot for slot in range(64) if not past <= first + slot < past + new]
            unchanged = after[:, kept] == before[block][:, kept]
            assert (unchanged | (after[:, kept] == 0) if past <= first < past + new else unchanged).all()
            np.testing.assert_array_equal(read_block(cache, block, 1 - LAYER), other_layer[block])


@KV_DTYPES
@on_every_isa
def test_a_nan_of_a_former_sequence_stays_with_it(kv_dtype: str, isa: str) -> None:
    case = ATTEND_CASES[0]
    arrays = case.arrays()
    cache = native_cache(arrays["inputs"], case.groups, case.dim, kv_dtype)
    for block in range(cache.pool.num_blocks):
        cache.pool.block(block)[:] = 0xFF
    fill(cache, arrays["inputs"], arrays["keys"], arrays["values"])
    assert np.isfinite(run("attend", "native", attend_arguments(arrays), cache=cache)).all()


@pytest.mark.parametrize(
    ("impl", "error"), [("reference", IndexError), pytest.param("native", ValueError, marks=needs_native)]
)
def test_positions_beyond_the_rotary_table_are_refused(impl: str, error: type[Exception]) -> None:
    case = ROTARY_CASES[0]
    arrays = case.arrays()
    arrays["inputs"].positions[-1] = len(arrays["rope"].cos)
    with pytest.raises(error):
        if impl == "reference":
            written(case, arrays, torch.float32)
        else:
            run("rotary_write", impl, arrays, cache=native_cache(arrays["inputs"], case.groups, case.dim), layer=0)
