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
    return {key: arrays[key] for key in ("q", "inputs", "scale")} | {"layer": LAYER}


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


@EVERY_ATTEND_CASE
def test_attend_reference_is_softmax_of_scores_key_by_key(case: AttendCase) -> None:
    arrays = case.arrays()
    result = attend_reference(arrays, torch.float64).reshape(-1, case.heads, case.dim)
    share = case.heads // case.groups
    for sequence, length in enumerate(arrays["inputs"].kv_lengths):
        part = rows(arrays["inputs"], sequence)
        for row in {part.start, part.stop - 1}:
            visible = length - (part.stop - 1 - row)
            for head in (0, case.heads - 1):
                keys, values = (arrays[name][sequence][:visible, head // share] for name in ("keys", "values"))
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
    )


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
        part = rows(inputs, sequence)
        for first in range(part.start, part.stop, 29):
            for stop in {first + 1, min(first + 29, part.stop)}:
                chunk = attend_arguments(arrays) | {
                    "q": arrays["q"][first:stop],
                    "inputs": only(inputs, sequence, first, stop),
                }
                alone = run("attend", "native", chunk, cache=cache)
                np.testing.assert_array_equal(alone, together[first:stop])


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
