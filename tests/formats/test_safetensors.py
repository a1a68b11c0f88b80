"""Safetensors: against the format's own library in both directions, shards, and damage of every kind."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whimbrel.errors import FormatError, ModelNotFound
from whimbrel.formats.rounding import to_bf16, to_float32
from whimbrel.formats.safetensors import (
    INDEX_NAME,
    Checkpoint,
    SafetensorsFile,
    TensorSource,
    as_source,
    write_checkpoint,
    write_safetensors,
)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((7, 5)).astype(np.float32)
    return {"a": dense, "b.half": dense.astype(np.float16), "c": to_bf16(dense), "scalar": np.float32(3).reshape(())}


def sources() -> list[TensorSource]:
    return [as_source(name, array) for name, array in arrays().items()]


def test_the_librarys_files_are_read_here(tmp_path: Path) -> None:
    tensors = {
        "x": torch.randn(3, 4),
        "y": torch.randn(6, dtype=torch.bfloat16),
        "z": torch.randn(2, 2, 2, dtype=torch.float16),
        "i": torch.arange(5),
        "none": torch.empty(0, 3),
    }
    safetensors.torch.save_file(tensors, tmp_path / "t.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "t.safetensors")
    assert set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        found = file.array(name)
        expected = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(found, expected.numpy())
    assert file.tensors["y"].dtype == "BF16"
    np.testing.assert_array_equal(to_float32(file.array("y")), tensors["y"].float().numpy())
    file.drop_pages("x")
    np.testing.assert_array_equal(file.array("x"), tensors["x"].numpy())


def test_files_written_here_are_read_by_the_library(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "t.safetensors", sources())
    found = safetensors.torch.load_file(tmp_path / "t.safetensors")
    for name, array in arrays().items():
        tensor = found[name]
        expected = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(expected.numpy(), array)


def test_data_comes_in_chunks_and_must_be_complete(tmp_path: Path) -> None:
    whole = np.arange(10, dtype=np.float32)

    def source(*chunks: np.ndarray) -> TensorSource:
        return TensorSource(name="t", dtype="F32", shape=(10,), chunks=lambda: chunks)

    write_safetensors(tmp_path / "t.safetensors", [source(whole[:3], whole[3:])])
    np.testing.assert_array_equal(SafetensorsFile(tmp_path / "t.safetensors").array("t"), whole)
    with pytest.raises(ValueError, match="chunks"):
        write_safetensors(tmp_path / "short.safetensors", [source(whole[:3])])
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


@pytest.mark.parametrize("limit, files", [(10**9, 1), (200, 2), (1, 4)])
def test_checkpoints_in_shards(tmp_path: Path, limit: int, files: int) -> None:
    written = write_checkpoint(tmp_path, sources(), max_shard_bytes=limit)
    assert len(written) == files
    assert (tmp_path / INDEX_NAME).is_file() == (files > 1)
    checkpoint = Checkpoint(tmp_path)
    assert {name: e.shape for name, e in checkpoint.tensors.items()} == {n: a.shape for n, a in arrays().items()}
    for name, array in arrays().items():
        np.testing.assert_array_equal(checkpoint.array(name), array)
        checkpoint.drop_pages(name)


def test_a_failed_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> list[np.ndarray]:
        raise OSError("disk full")

    tensors = [*sources(), TensorSource(name="z", dtype="F32", shape=(4,), chunks=broken)]
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, tensors, max_shard_bytes=1)
    assert not list(tmp_path.iterdir())


def test_missing_parts_of_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="is it a checkpoint"):
        Checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelNotFound, match="convert"):
        Checkpoint(tmp_path)
    files = write_checkpoint(tmp_path, sources(), max_shard_bytes=200)
    kept = files[1].read_bytes()
    files[1].unlink()
    with pytest.raises(FormatError, match=r"model-00002-of-00002\.safetensors is missing"):
        Checkpoint(tmp_path)
    files[1].write_bytes(kept)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    index["weight_map"]["ghost"] = files[0].name
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(FormatError, match="ghost"):
        Checkpoint(tmp_path)
    index["weight_map"] = {"a": "../outside.safetensors"}
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(FormatError, match="plain file name"):
        Checkpoint(tmp_path)
    for text in ("{", "[]", '{"weight_map": 3}', "[" * 100_000):
        (tmp_path / INDEX_NAME).write_text(text)
        with pytest.raises(FormatError, match="index"):
            Checkpoint(tmp_path)
    (tmp_path / INDEX_NAME).unlink()
    with pytest.raises(FormatError, match="2 safetensors files"):
        Checkpoint(tmp_path)


def file_of(header: Any, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "long header": ((1 << 62).to_bytes(8, "little") + b"{}", "header"),
    "no json": (file_of(b"{"), "JSON"),
    "not utf-8": (file_of(b"\xff\xfe{}"), "JSON"),
    "deep": (file_of(b"[" * 200_000), "JSON"),
    "list": (file_of([]), "list"),
    "twice": (file_of(b'{"t": 1, "t": 2}'), "twice"),
    "no object": (file_of({"t": 5}), "no object"),
    "dtype": (file_of({"t": entry(dtype="F33")}, bytes(8)), "F33"),
    "dtype list": (file_of({"t": entry(dtype=["F32"])}, bytes(8)), "dtype"),
    "negative": (file_of({"t": entry(shape=[-2])}, bytes(8)), "make no sense"),
    "fraction": (file_of({"t": entry(shape=[2.0])}, bytes(8)), "make no sense"),
    "backwards": (file_of({"t": entry(offsets=[8, 0])}, bytes(8)), "make no sense"),
    "three offsets": (file_of({"t": entry(offsets=[0, 4, 8])}, bytes(8)), "make no sense"),
    "size": (file_of({"t": entry(shape=[3])}, bytes(8)), "needs 12 bytes"),
    "huge": (file_of({"t": entry(shape=[1 << 40, 1 << 40])}, bytes(8)), "needs"),
    "truncated": (file_of({"t": entry()}, bytes(7)), "truncated"),
    "trailing": (file_of({"t": entry()}, bytes(9)), "other data"),
    "overlap": (file_of({"t": entry(), "u": entry(offsets=[4, 12])}, bytes(12)), "overlaps"),
    "hole": (file_of({"t": entry(), "u": entry(offsets=[12, 20])}, bytes(20)), "hole"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_say_what_is_wrong(tmp_path: Path, case: str) -> None:
    data, reason = BAD_FILES[case]
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=rf"bad\.safetensors.*{reason}"):
        SafetensorsFile(tmp_path / "bad.safetensors")


@given(
    edits=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=5),
    length=st.none() | st.integers(0, 700),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_an_error_and_little_else(
    tmp_path: Path, edits: list[tuple[int, int]], length: int | None
) -> None:
    path = tmp_path / "damaged.safetensors"
    write_safetensors(path, sources())
    data = bytearray(path.read_bytes())
    for at, byte in edits:
        data[at % len(data)] = byte
    path.write_bytes(data[:length])
    tracemalloc.start()
    try:
        file = SafetensorsFile(path)
        for name, found in file.tensors.items():
            assert file.array(name).nbytes == found.nbytes
    except FormatError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5_000_000


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        SafetensorsFile(tmp_path / "nothing.safetensors")
