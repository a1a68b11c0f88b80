"""PackedTensor: the documented bytes, exact round trips, bounded rounding, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whimbrel.errors import FormatError, InvalidParameter
from whimbrel.formats import packed
from whimbrel.formats.packed import empty, empty_interleaved, pack, pack_rows, store_codes
from whimbrel.formats.rounding import to_bf16, to_float32
from whimbrel.formats.tiles import untile_scales

pytestmark = pytest.mark.usefixtures("packing")

QUANTIZED = [(layout, group, mins) for layout in ("q4", "q8") for group in (16, 32, 64, 128) for mins in (False, True)]
FLOATS = [("f32", 0, False), ("f16", 0, False), ("bf16", 0, False)]


def matrix(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k), np.float32)


@pytest.mark.parametrize("n", [1, 16, 37])
def test_q4_bytes_are_where_the_table_says(n: int) -> None:
    codes = np.random.default_rng(1).integers(0, 16, (n, 64), np.uint8)
    tensor = empty("q4", (n, 64), 32)
    store_codes(codes, tensor, slice(None))
    for row in range(n):
        for j in range(8):
            for b in range(4):
                byte = int(tensor.codes[row // 16, j, row % 16, b])
                assert (byte & 15, byte >> 4) == (codes[row, 8 * j + b], codes[row, 8 * j + 4 + b])


def test_q8_and_bf16_bytes_are_where_the_table_says() -> None:
    codes = np.random.default_rng(2).integers(0, 256, (20, 32), np.uint8)
    tensor = empty("q8", (20, 32), 32)
    store_codes(codes, tensor, slice(None))
    bits = codes.astype(np.uint16) + 300
    pairs = empty("bf16", (20, 32))
    store_codes(bits, pairs, slice(None))
    for row in range(20):
        for k in range(32):
            assert tensor.codes[row // 16, k // 4, row % 16, k % 4] == codes[row, k]
            assert pairs.codes[row // 16, k // 2, row % 16, k % 2] == bits[row, k]


@pytest.mark.parametrize("layout, group, mins", FLOATS)
def test_floats_come_back_as_their_own_type_holds_them(layout: str, group: int, mins: bool) -> None:
    dense = matrix(37, 66)
    kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    expected = torch.from_numpy(dense).to(kinds[layout]).float().numpy()
    np.testing.assert_array_equal(pack(dense, layout, group, mins=mins).dequantize(), expected)


@pytest.mark.parametrize("layout, group, mins", QUANTIZED)
def test_rounding_is_at_most_half_a_step(layout: str, group: int, mins: bool) -> None:
    dense = matrix(37, 256)
    tensor = pack(dense, layout, group, mins=mins)
    assert tensor.scales is not None
    steps = untile_scales(tensor.scales)[:37].repeat(group, axis=1)
    reach = np.abs(dense).reshape(37, -1, group).max(-1).repeat(group, axis=1)
    # Half a step, and what an end of the range can miss because the fp16 scale was rounded down.
    allowed = np.abs(steps) * 0.5 + reach * 2.0**-10
    if layout == "q4" and not mins:
        # -8 .. 7 steps: the extreme is at -8, a value of the other sign and nearly as large is clipped to 7.
        allowed = np.abs(steps) * 1.0 + reach * 2.0**-10
    assert (np.abs(tensor.dequantize() - dense) <= allowed).all()


@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([q for q in QUANTIZED if q[1] <= 64]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_values_on_the_grid_come_back_exactly(n: int, cells: int, kind: tuple[str, int, bool], random: object) -> None:
    layout, group, mins = kind
    k, rng = 64 * cells, np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    tensor = empty(layout, (n, k), group, mins=mins)
    codes = rng.integers(0, 16 if layout == "q4" else 256, (n, k), np.uint8)
    scales = rng.standard_normal((n, k // group)).astype(np.float16)
    bounds = rng.standard_normal((n, k // group)).astype(np.float16) if mins else None
    store_codes(codes, tensor, slice(None))
    packed.store_scales(scales, bounds, tensor, slice(None))
    zero = 128 if layout == "q8" else (0 if mins else 8)
    expected = (codes.astype(np.float32) - zero) * scales.astype(np.float32).repeat(group, 1)
    if bounds is not None:
        expected += bounds.astype(np.float32).repeat(group, 1)
    np.testing.assert_array_equal(tensor.dequantize(), expected)


@pytest.mark.parametrize("layout, group, mins", [*FLOATS, ("q4", 32, True), ("q4", 32, False), ("q8", 32, False)])
def test_padding_is_zero(layout: str, group: int, mins: bool) -> None:
    tensor = pack(matrix(17, 64), layout, group, mins=mins)
    assert tensor.codes.shape[0] == 2
    every_row = packed.PackedTensor(layout, (32, 64), group, tensor.codes, tensor.scales, tensor.mins)
    np.testing.assert_array_equal(every_row.dequantize()[17:], 0)


def test_a_part_of_the_rows_is_that_part() -> None:
    tensor = pack(matrix(100, 64), "q4", 32)
    whole = tensor.dequantize()
    for start, stop in [(0, 1), (15, 17), (33, 99), (96, 100), (5, 5)]:
        np.testing.assert_array_equal(tensor.dequantize(start, stop), whole[start:stop])


@pytest.mark.parametrize("layout, group, mins", [("q4", 32, True), ("q8", 64, False), ("bf16", 0, False)])
def test_interleaved_tensors_alternate_in_one_buffer(layout: str, group: int, mins: bool) -> None:
    dense = [matrix(40, 128, seed) for seed in (3, 4)]
    gate, up = empty_interleaved(layout, (40, 128), group, mins=mins)
    for tensor, rows in zip((gate, up), dense, strict=True):
        pack_rows(lambda start, stop, rows=rows: rows[start:stop], tensor)
        np.testing.assert_array_equal(tensor.dequantize(), pack(rows, layout, group, mins=mins).dequantize())
    block = gate.codes[0].nbytes
    assert gate.codes.strides[0] == 2 * block
    assert up.codes.ctypes.data - gate.codes.ctypes.data == block
    assert gate.codes[0].flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 32), (16, 96), (50, 160)])
def test_parts_start_at_cache_lines(shape: tuple[int, int]) -> None:
    for tensor in (pack(matrix(*shape), "q4", 32, mins=True), *empty_interleaved("q8", shape, 32)):
        for part in (tensor.codes, tensor.scales, tensor.mins):
            assert part is None or part.ctypes.data % 16 == 0
        assert tensor.codes.ctypes.data % 64 == 0


@given(hnp.arrays(np.uint32, st.integers(1, 50)))
def test_bf16_rounds_like_torch(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
    nan = np.isnan(values)
    np.testing.assert_array_equal(to_bf16(values)[~nan], expected[~nan])
    assert np.isnan(to_float32(to_bf16(values))[nan]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("layout, mins", [("q4", False), ("q4", True), ("q8", False), ("q8", True)])
def test_weights_that_scales_cannot_hold_are_refused(bad: float, layout: str, mins: bool) -> None:
    dense = matrix(20, 64)
    dense[13, 40] = bad
    with pytest.raises(FormatError, match="fp16"):
        pack(dense, layout, 32, mins=mins)


@pytest.mark.parametrize("layout", ["q4", "q8"])
def test_tiny_and_zero_weights_stay_finite(layout: str) -> None:
    dense = np.zeros((16, 64), np.float32)
    dense[3] = 1e-12
    assert np.isfinite(pack(dense, layout, 32).dequantize()).all()
    assert not pack(np.zeros((16, 64), np.float32), layout, 32).dequantize().any()


@pytest.mark.parametrize(
    "layout, shape, group, mins",
    [
        ("q5", (16, 32), 32, False),
        ("q4", (16, 32), 24, False),
        ("q4", (16, 48), 16, False),
        ("q8", (16, 96), 64, False),
        ("bf16", (16, 33), 0, False),
        ("f32", (16, 32), 0, True),
        ("f32", (0, 32), 0, False),
    ],
)
def test_impossible_layouts_are_refused(layout: str, shape: tuple[int, int], group: int, mins: bool) -> None:
    with pytest.raises(InvalidParameter):
        empty(layout, shape, group, mins=mins)


def test_nbytes_counts_what_the_kernels_read() -> None:
    tensor = pack(matrix(32, 64), "q4", 32, mins=True)
    assert tensor.nbytes == 32 * 64 // 2 + 2 * 32 * 2 * 2
