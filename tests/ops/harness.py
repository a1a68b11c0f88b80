"""Running one case on one implementation: conversion of arrays, a cache for each, and who is there at all."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.ops import dispatch
from whimbrel.ops.cases import BLOCK_SIZE, StepInputs

LAYERS, LAYER = 2, 1
"""Native pools have two layers and the tests use the second, so that a kernel that forgets the layer is found."""

WHY_NO_NATIVE = dispatch.get("embedding").why_not("native")
needs_native = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))


def available_isas() -> list[Any]:
    """Instruction sets to test: all that this build and processor have, or one that skips with the reason."""
    if WHY_NO_NATIVE is not None:
        return [pytest.param("native", marks=needs_native)]
    from whimbrel import _native

    return list(_native.available_isas())


on_every_isa = pytest.mark.parametrize("isa", available_isas(), indirect=True)
"""Runs a test once per instruction set (see the fixture ``isa``)."""


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
    everything: Any = SimpleNamespace(
        cu_seqlens=np.cumsum([0, *map(len, keys)]).astype(np.int32), kv_lengths=arrays["inputs"].kv_lengths
    )
    flat = [torch.from_numpy(np.concatenate(part)).to(dtype) for part in (keys, values)]
    cache.write(LAYER, flat[0], flat[1], everything)
    return cache


def native_cache(inputs: Any, groups: int, dim: int, kv_dtype: str = "bf16") -> Any:
    """A native pool with room for the blocks of ``inputs``, full of 9e37: what a former owner may have left there."""
    from whimbrel import _native

    pool = _native.KVPool(int(inputs.block_tables.max()) + 1, LAYERS, groups, dim, kv_dtype)
    for block in range(pool.num_blocks):
        pool.block(block)[:] = 0x7E
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
    run("rotary_write", "native", {"qkv": qkv, "rope": upright, "inputs": everything, "cache": cache, "layer": LAYER})


def read_block(cache: Any, block: int, layer: int = LAYER) -> Any:
    """Keys and values of one block as fp32 [2, 64, G, D], decoded as ``native/kernels.h`` lays them out."""
    groups, dim = cache.num_key_value_heads, cache.head_dim
    heads = cache.pool.block(block).reshape(LAYERS, groups, -1)[layer].copy()
    half = dim * BLOCK_SIZE
    if heads.shape[1] == 4 * half:
        codes = (heads.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        scales = np.ones((groups, 2, BLOCK_SIZE), np.float32)
    else:
        codes = heads[:, : 2 * half].view(np.int8).astype(np.float32)
        scales = heads[:, 2 * half :].copy().view(np.float32).reshape(groups, 2, BLOCK_SIZE)
    keys = codes[:, :half].reshape(groups, dim // 2, BLOCK_SIZE, 2).transpose(2, 0, 1, 3)
    values = codes[:, half:].reshape(groups, BLOCK_SIZE // 2, dim, 2).transpose(1, 3, 0, 2)
    both = np.stack([keys.reshape(BLOCK_SIZE, groups, dim), values.reshape(BLOCK_SIZE, groups, dim)])
    with np.errstate(over="ignore", invalid="ignore"):  # slots that nobody wrote hold anything
        return both * scales.transpose(1, 2, 0)[..., None]


def read_sequence(cache: Any, inputs: Any, sequence: int) -> Any:
    """Keys and values [2, L, G, D] of one sequence of a native cache."""
    length = int(inputs.kv_lengths[sequence])
    blocks = inputs.block_tables[sequence, : -(-length // BLOCK_SIZE)]
    return np.concatenate([read_block(cache, int(block)) for block in blocks], axis=1)[:, :length]


def rows(inputs: Any, sequence: int) -> slice:
    """The rows of one sequence."""
    return slice(*inputs.cu_seqlens[sequence : sequence + 2].tolist())
