"""GGUF: values and metadata against the gguf package, exact repacking, and files that are damaged in every way."""

import struct
import tracemalloc
from pathlib import Path
from time import thread_time
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from whimbrel.errors import FormatError, ModelNotFound, UnsupportedModel, WhimbrelError
from whimbrel.formats import ggml_types
from whimbrel.formats.gguf import GGUFFile
from whimbrel.formats.gguf_header import StringArray
from whimbrel.formats.gguf_writer import RawTensor, write_gguf

pytestmark = pytest.mark.usefixtures("packing")

QUANTIZABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SUPER_BLOCKS = ("Q4_K", "Q5_K", "Q6_K")
FLOATS = ("F32", "F16", "BF16")


def quantized(name: str, n: int, k: int, seed: int = 0) -> RawTensor:
    """Random weights in a type: by the gguf package where it can, random bytes with sane scales where not."""
    rng = np.random.default_rng(seed)
    kind = ggml_types.BY_NAME[name]
    if name in QUANTIZABLE:
        data = gguf.quantize(rng.standard_normal((n, k), np.float32), gguf.GGMLQuantizationType[name])
        return RawTensor(shape=(n, k), type=name, data=data)
    if name in FLOATS:
        dense = rng.standard_normal((n, k), np.float32)
        data = {"F32": dense, "F16": dense.astype(np.float16), "BF16": (dense.view(np.uint32) >> 16).astype(np.uint16)}
        return RawTensor(shape=(n, k), type=name, data=data[name].view(np.uint8))
    blocks = rng.integers(0, 256, (n, k // kind.block, kind.size), np.uint8)
    offsets = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[name]
    for offset in offsets:
        scales = rng.uniform(1e-4, 1e-2, blocks.shape[:2]).astype(np.float16)
        blocks[..., offset : offset + 2] = scales[..., None].view(np.uint8)
    return RawTensor(shape=(n, k), type=name, data=blocks.reshape(n, -1))


def one_tensor(folder: Path, tensor: RawTensor) -> GGUFFile:
    write_gguf(folder / "one.gguf", {"general.architecture": "llama"}, {"w": tensor})
    return GGUFFile(folder / "one.gguf")


def oracle(tensor: RawTensor) -> np.ndarray:
    return gguf.dequantize(tensor.data, gguf.GGMLQuantizationType[tensor.type]).astype(np.float32)


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("name", [*QUANTIZABLE, *SUPER_BLOCKS, *FLOATS])
def test_values_equal_the_gguf_packages(tmp_path: Path, name: str, n: int) -> None:
    tensor = quantized(name, n, 512)
    np.testing.assert_array_equal(one_tensor(tmp_path, tensor).dequantize("w"), oracle(tensor))


@pytest.mark.parametrize("name", [*QUANTIZABLE, *FLOATS])
def test_repacking_loses_nothing(tmp_path: Path, name: str) -> None:
    tensor = quantized(name, 40, 96)
    np.testing.assert_array_equal(one_tensor(tmp_path, tensor).repack("w").dequantize(), oracle(tensor))


@pytest.mark.parametrize("name", SUPER_BLOCKS)
def test_repacking_super_blocks_rounds_only_scales(tmp_path: Path, name: str) -> None:
    tensor = quantized(name, 40, 512)
    file = one_tensor(tmp_path, tensor)
    kind = ggml_types.BY_NAME[name]
    assert kind.split is not None
    parts = kind.split(file.rows("w").reshape(40, -1, kind.size))
    per_value = np.abs(parts.scales).repeat(kind.group, 1) * np.abs(parts.codes.astype(np.float32) - parts.zero)
    if parts.mins is not None:
        per_value += np.abs(parts.mins).repeat(kind.group, 1)
    # fp16 keeps 11 bits; below 2^-14 its step is 2^-24, times up to 32 codes.
    allowed = per_value * 2.0**-11 + 33 * 2.0**-25
    assert (np.abs(file.repack("w").dequantize() - oracle(tensor)) <= allowed).all()


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0", "Q6_K", "F16"])
def test_rows_can_be_reordered(tmp_path: Path, name: str) -> None:
    tensor = quantized(name, 40, 256)
    order = np.random.default_rng(5).permutation(40)
    file = one_tensor(tmp_path, tensor)
    np.testing.assert_array_equal(file.repack("w", row_order=order).dequantize(), file.repack("w").dequantize()[order])
    np.testing.assert_array_equal(file.dequantize_rows("w", 3, 20, order), oracle(tensor)[order][3:20])


def test_many_chunks_are_one_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whimbrel.formats.packed.CHUNK_ELEMENTS", 1024)
    tensor = quantized("Q4_0", 133, 64)
    np.testing.assert_array_equal(one_tensor(tmp_path, tensor).repack("w").dequantize(), oracle(tensor))


def test_a_type_without_reader_says_which_exist(tmp_path: Path) -> None:
    data = np.zeros((4, 84), np.uint8)
    file = one_tensor(tmp_path, RawTensor(shape=(4, 256), type="Q2_K", data=data))
    with pytest.raises(UnsupportedModel, match=r"Q2_K.*Q4_K"):
        file.repack("w")
    with pytest.raises(UnsupportedModel, match="Q2_K"):
        file.dequantize("w")


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.bool": True,
    "a.u32": 4_000_000_000,
    "a.i32": -5,
    "a.u64": 1 << 40,
    "a.i64": -(1 << 40),
    "a.float": 0.5,
    "a.text": "wĥimbrel 🐦",
    "a.strings": ["", "é", "x" * 300],
    "a.ints": [1, -2, 3],
    "a.floats": [0.5, 2.0],
    "a.array": np.arange(5, dtype=np.int8),
}


def test_metadata_written_here_is_read_by_the_gguf_package_and_here(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, METADATA, {"t": np.ones((3, 4), np.float32), "v": np.ones(7, np.float16)})
    theirs = gguf.GGUFReader(path)
    ours = GGUFFile(path)
    for key, value in METADATA.items():
        assert theirs.fields[key].contents() == (value.tolist() if isinstance(value, np.ndarray) else value), key
        found = ours.metadata[key]
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == (
            value.tolist() if isinstance(value, np.ndarray) else value
        ), key
    assert {t.name: tuple(t.shape.tolist()[::-1]) for t in theirs.tensors} == {"t": (3, 4), "v": (7,)}
    assert ours.tensors["t"].shape == (3, 4)
    np.testing.assert_array_equal(ours.dequantize("v"), np.ones(7))


def test_a_file_of_the_gguf_package_is_read_here(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_uint8("k.u8", 200)
    writer.add_int16("k.i16", -300)
    writer.add_float64("k.f64", 1.25)
    writer.add_bool("k.bool", False)
    writer.add_array("k.texts", ["a", "bé"])
    writer.add_custom_alignment(64)
    dense = np.random.default_rng(0).standard_normal((5, 32), np.float32)
    writer.add_tensor("x", dense)
    writer.add_tensor("y", gguf.quantize(dense, gguf.GGMLQuantizationType.Q8_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    expected = {"k.u8": 200, "k.i16": -300, "k.f64": 1.25, "k.bool": False, "k.texts": ["a", "bé"]}
    assert {key: file.metadata[key] for key in expected} == expected
    assert file.metadata["k.bool"] is False
    assert file.tensors["y"].offset % 64 == 0
    np.testing.assert_array_equal(file.dequantize("x"), dense)
    np.testing.assert_array_equal(file.dequantize("y"), gguf.dequantize(
        gguf.quantize(dense, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0))  # fmt: skip


# Damage.


def small_file(folder: Path) -> bytes:
    path = folder / "small.gguf"
    tensors = {"w": quantized("Q4_1", 3, 64), "k": quantized("Q6_K", 2, 256), "f": np.ones(9, np.float32)}
    write_gguf(path, METADATA, tensors)
    return path.read_bytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_file(tmp_path_factory.mktemp("gguf"))


def read_everything(path: Path) -> None:
    """What a loader does with a file; must end in a result or in one of our errors, in little memory."""
    file = GGUFFile(path)
    for value in file.metadata.values():
        assert list(value) if isinstance(value, StringArray) and len(value) else repr(value)
    for name, info in file.tensors.items():
        assert info.offset + info.nbytes <= path.stat().st_size
        assert file.data(name).nbytes == info.nbytes
        if info.type.layout and len(info.shape) == 2:
            file.dequantize(name)
            file.repack(name)


@given(
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    words=st.lists(
        st.tuples(st.integers(0, 2000), st.sampled_from([0, 1, 1 << 31, 1 << 32, 1 << 62, (1 << 64) - 1])), max_size=2
    ),
    length=st.none() | st.integers(0, 4000),
)
@example(edits=[], words=[(8, (1 << 64) - 1)], length=None)
@example(edits=[], words=[(16, 1 << 62)], length=None)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_an_error_and_little_else(
    tmp_path: Path, sound: bytes, edits: list[tuple[int, int]], words: list[tuple[int, int]], length: int | None
) -> None:
    data = bytearray(sound)
    for at, byte in edits:
        data[at % len(data)] = byte
    for at, word in words:
        data[at % (len(data) - 8) : at % (len(data) - 8) + 8] = struct.pack("<Q", word)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data[:length])
    tracemalloc.start()
    try:
        read_everything(path)
    except WhimbrelError as error:
        assert str(path) in str(error) or isinstance(error, UnsupportedModel | FormatError)
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20_000_000, f"{peak} bytes were asked for"


def test_every_truncation_is_noticed(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "short.gguf"
    used = end_of_data(tmp_path, sound)
    for length in [*range(0, 400, 7), *range(400, used, 101), used - 1]:
        path.write_bytes(sound[:length])
        with pytest.raises(FormatError, match=r"short\.gguf"):
            GGUFFile(path)


def end_of_data(folder: Path, data: bytes) -> int:
    path = folder / "whole.gguf"
    path.write_bytes(data)
    return max(info.offset + info.nbytes for info in GGUFFile(path).tensors.values())


def header(tensors: int = 0, keys: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset)


PADDING = bytes(4096)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "html": (b"<!DOCTYPE html>" + PADDING, "not a GGUF file"),
    "old version": (header(version=1) + PADDING, "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + PADDING, "big-endian"),
    "many tensors": (header(tensors=1 << 60) + PADDING, "truncated"),
    "many keys": (header(keys=1 << 60) + PADDING, "truncated"),
    "long key": (header(keys=1) + struct.pack("<Q", 1 << 63) + PADDING, "its name"),
    "key not utf-8": (header(keys=1) + key(b"\xff\xfe", 4, bytes(4)) + PADDING, "UTF-8"),
    "twice": (header(keys=2) + key(b"k", 4, bytes(4)) * 2 + PADDING, "twice"),
    "value type": (header(keys=1) + key(b"k", 99, bytes(4)) + PADDING, "type 99"),
    "long string": (header(keys=1) + key(b"k", 8, struct.pack("<Q", 1 << 40)) + PADDING, "'k'"),
    "long array": (header(keys=1) + key(b"k", 9, struct.pack("<IQ", 4, 1 << 61)) + PADDING, "'k'"),
    "many strings": (header(keys=1) + key(b"k", 9, struct.pack("<IQ", 8, 1 << 59)) + PADDING, "'k'"),
    "string in array": (
        header(keys=1) + key(b"k", 9, struct.pack("<IQQ", 8, 2, 1 << 50)) + PADDING, "string 0 of 2"),
    "element type": (header(keys=1) + key(b"k", 9, struct.pack("<IQ", 77, 1)) + PADDING, "77"),
    "nested": (header(keys=1) + key(b"k", 9, struct.pack("<IQ", 9, 1) * 200) + PADDING, "nested"),
    "alignment": (header(keys=1) + key(b"general.alignment", 4, struct.pack("<I", 24)) + PADDING, "alignment"),
    "alignment 0": (header(keys=1) + key(b"general.alignment", 4, bytes(4)) + PADDING, "alignment"),
    "dimensions": (header(tensors=1) + tensor(b"t", [1] * 9) + PADDING, "9 dimensions"),
    "no dimensions": (header(tensors=1) + tensor(b"t", []) + PADDING, "0 dimensions"),
    "zero": (header(tensors=1) + tensor(b"t", [0, 4]) + PADDING, "no elements"),
    "product overflows": (header(tensors=1) + tensor(b"t", [1 << 32, 1 << 32]) + PADDING, "file ends"),
    "tensor type": (header(tensors=1) + tensor(b"t", [32], kind=4) + PADDING, "type 4"),
    "ragged block": (header(tensors=1) + tensor(b"t", [33], kind=8) + PADDING, "blocks of 32"),
    "offset": (header(tensors=1) + tensor(b"t", [4], offset=(1 << 64) - 32) + PADDING, "file ends"),
    "crooked offset": (header(tensors=1) + tensor(b"t", [4], offset=3) + PADDING, "multiple"),
    "tensor twice": (header(tensors=2) + tensor(b"t", [4]) * 2 + PADDING, "twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_say_what_is_wrong(tmp_path: Path, case: str) -> None:
    data, reason = BAD_FILES[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=rf"bad\.gguf.*{reason}"):
        GGUFFile(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        GGUFFile(tmp_path / "nothing.gguf")
    with pytest.raises(FormatError, match="can't be read"):
        GGUFFile(tmp_path)


def test_nothing_stays_of_a_write_that_fails(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="float64"):
        write_gguf(tmp_path / "x.gguf", {}, {"t": np.zeros(3)})
    with pytest.raises(FormatError, match="dict"):
        write_gguf(tmp_path / "x.gguf", {"k": {}}, {})
    assert not list(tmp_path.iterdir())


def test_the_real_file_opens_at_once(smollm2: Path) -> None:
    times = []
    for _ in range(5):
        start = thread_time()
        file = GGUFFile(smollm2)
        times.append(thread_time() - start)
    assert min(times) < 0.06, f"{1000 * min(times):.0f} ms"
    assert len(file.tensors) == 272
    for name in ("token_embd.weight", "blk.0.attn_k.weight", "blk.29.ffn_down.weight", "output_norm.weight"):
        info = file.tensors[name]
        expected = gguf.dequantize(file.rows(name), gguf.GGMLQuantizationType[info.type.name])
        np.testing.assert_array_equal(file.dequantize(name), expected.reshape(info.shape))
        if len(info.shape) == 2:
            np.testing.assert_array_equal(file.repack(name).dequantize(), expected)
