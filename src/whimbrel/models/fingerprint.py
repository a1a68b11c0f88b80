"""fingerprint: a short text that tells two networks apart, also two quantizations of the same one.

It covers the shape of the network, and of every weight its layout and 4 KiB of its bytes, spread evenly. Position
encoding, context and attention are left out: they belong to how a network is used. Measured: 4 ms for 0.5 B weights.
"""

from collections.abc import Iterator
from dataclasses import fields
from hashlib import blake2b
from typing import Any

import numpy as np

from whimbrel.models.config import ModelConfig
from whimbrel.models.params import Params

_LEFT_OUT = {"rope", "max_position_embeddings", "sparse", "unknown_keys", "bos_token_id", "eos_token_ids"}
_SAMPLES, _SAMPLE_BYTES = 64, 64


def fingerprint(config: ModelConfig, params: Params) -> str:
    """32 hexadecimal digits. ``params`` hold packed tensors, or arrays of numpy or torch."""
    hash = blake2b(digest_size=16)
    for field in fields(config):
        if field.name not in _LEFT_OUT:
            hash.update(f"{field.name}={getattr(config, field.name)!r};".encode())
    for weight in _weights(params):
        hash.update(f"{getattr(weight, 'layout', '')}{tuple(weight.shape)};".encode())
        for part in _parts(weight):
            hash.update(_sample(part))
    return hash.hexdigest()


def _weights(params: Params) -> Iterator[Any]:
    yield params.embed_tokens
    for layer in params.layers:
        yield from (value for field in fields(layer) if (value := getattr(layer, field.name)) is not None)
    yield params.norm
    if params.lm_head is not params.embed_tokens:
        yield params.lm_head


def _parts(weight: Any) -> Iterator[np.ndarray[Any, Any]]:
    if hasattr(weight, "codes"):
        yield from (part for part in (weight.codes, weight.scales, weight.mins) if part is not None)
    else:
        yield weight if isinstance(weight, np.ndarray) else weight.detach().cpu().float().numpy()


def _sample(array: np.ndarray[Any, Any]) -> bytes:
    """Bytes of the first dimension's rows, evenly spread; rows are contiguous, the first dimension may be strided."""
    rows = array if array.ndim > 1 else array.reshape(1, -1)
    chosen = np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(int))
    pieces = []
    for index, row in enumerate(chosen):
        data = np.ascontiguousarray(rows[row]).reshape(-1).view(np.uint8)
        start = max(0, len(data) - _SAMPLE_BYTES) * index // _SAMPLES
        pieces.append(data[start : start + max(_SAMPLE_BYTES, 4096 // len(chosen))].tobytes())
    return b"".join(pieces)
