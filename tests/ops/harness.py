"""Running one case on one implementation: conversion of arrays, a cache for each, and who is there at all."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.ops import dispatch
from whimbrel.ops.cases import StepInputs

WHY_NO_NATIVE = dispatch.get("embedding").why_not("native")
needs_native = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))


def run(name: str, impl: str, arrays: dict[str, Any], **more: Any) -> Any:
    """The op on that implementation."""
    return dispatch.get(name).choose(impl)(**arrays, **more)


def to_torch(value: Any, dtype: torch.dtype) -> Any:
    """Floating numpy arrays, also inside tuples and dictionaries, as tensors of ``dtype``; everything else as it is."""
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        return torch.from_numpy(value).to(dtype)
    if isinstance(value, dict):
        return {key: to_torch(item, dtype) for key, item in value.items()}
    return type(value)(to_torch(item, dtype) for item in value) if isinstance(value, tuple | list) else value


def reference(name: str, arrays: dict[str, Any], dtype: torch.dtype, **more: Any) -> torch.Tensor:
    """The op in torch, computed in ``dtype``."""
    result: torch.Tensor = run(name, "reference", to_torch(arrays, dtype), **more)
    return result


def dense_cache(arrays: dict[str, Any], dtype: torch.dtype) -> DenseView:
    """A dense cache with the ``keys`` and ``values`` of an attention case, rounded to ``dtype``."""
    keys, values = arrays["keys"], arrays["values"]
    cache = DenseView(*keys[0].shape[1:])
    everything = SimpleNamespace(
        cu_seqlens=np.cumsum([0, *map(len, keys)]).astype(np.int32), kv_lengths=arrays["inputs"].kv_lengths
    )
    cache.write(0, *(torch.from_numpy(np.concatenate(part)).to(dtype) for part in (keys, values)), everything)  # type: ignore[arg-type]
    return cache


def native_cache(inputs: Any, groups: int, dim: int, kv_dtype: str = "bf16") -> Any:
    """A native pool with room for the blocks of ``inputs``."""
    from whimbrel import _native

    pool = _native.KVPool(int(inputs.block_tables.max()) + 1, 1, groups, dim, kv_dtype)
    return SimpleNamespace(pool=pool, num_key_value_heads=groups, head_dim=dim)


def fill(cache: Any, inputs: Any, keys: Sequence[Any], values: Sequence[Any]) -> None:
    """Write keys and values [L, G, D] of every sequence into a native cache, by a rotation of zero degrees."""
    lengths = [len(part) for part in keys]
    everything = StepInputs(
        token_ids=np.zeros(sum(lengths), np.int32),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        kv_lengths=np.array(lengths, np.int32),
        block_tables=inputs.block_tables,
    )
    half = (max(lengths), cache.head_dim // 2)
    upright = SimpleNamespace(cos=np.ones(half, np.float32), sin=np.zeros(half, np.float32))
    q = np.zeros_like(np.concatenate(keys)[:, :1])
    qkv = np.concatenate([q, np.concatenate(keys), np.concatenate(values)], axis=1).reshape(len(q), -1)
    run("rotary_write", "native", {"qkv": qkv, "rope": upright, "inputs": everything, "cache": cache, "layer": 0})


def rows(inputs: Any, sequence: int) -> slice:
    """The rows of one sequence."""
    return slice(*inputs.cu_seqlens[sequence : sequence + 2].tolist())
