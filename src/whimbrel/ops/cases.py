"""What the ops' case lists share: kinds of weights, sequences of awkward lengths, and random arrays.

A case is a frozen dataclass with a ``name`` and ``arrays(seed)``: the arguments of the op, as numpy arrays and packed
weights. Tests, gradient checks and benchmarks all build their inputs from these lists. Needs no torch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.formats.packed import PackedTensor, pack

BLOCK_SIZE = 64
"""Tokens per block of the cache; ``attention.inputs`` has the same, out of reach from here."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class WeightKind:
    """A layout of ``formats.packed`` with its options."""

    layout: str
    group: int = 0
    mins: bool = False

    @property
    def name(self) -> str:
        """Such as ``q4g32`` or ``q8g64m``."""
        return f"{self.layout}g{self.group}{'m' * self.mins}" if self.group else self.layout

    def make(self, rng: np.random.Generator, rows: int, inputs: int) -> PackedTensor:
        """A random weight [rows, inputs] of variance 1 / inputs, with a mean where the kind can hold one."""
        values = rng.standard_normal((rows, inputs), dtype=np.float32) + np.float32(0.5 * self.mins)
        return pack((values / np.sqrt(inputs)).astype(np.float32), self.layout, self.group, mins=self.mins)


FLOAT_KINDS = tuple(WeightKind(layout) for layout in ("f32", "f16", "bf16"))
QUANTIZED_KINDS = tuple(
    WeightKind(layout, group, mins) for layout in ("q8", "q4") for group in (16, 32, 64, 128) for mins in (False, True)
)
KINDS = FLOAT_KINDS + QUANTIZED_KINDS
COMMON_KINDS = (WeightKind("f32"), WeightKind("bf16"), WeightKind("q8", 32), WeightKind("q4", 32))
"""One of each sort of kernel, for sweeps over other things."""


def inputs_for(kind: WeightKind) -> int:
    """The smallest awkward K that the kind's group divides: 96, 576 or 1,536."""
    return next(k for k in (96, 576, 1536) if not kind.group or k % kind.group == 0)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Standard normal fp32."""
    return rng.standard_normal(shape, dtype=np.float32)


def near_one(rng: np.random.Generator, *shape: int) -> Array:
    """Norm weights: fp32 around 1."""
    return (1 + normal(rng, *shape) / 8).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInputs:
    """The fields of ``attention.inputs.AttentionInputs``, which ops know by name only."""

    token_ids: Array
    positions: Array
    cu_seqlens: Array
    kv_lengths: Array
    block_tables: Array
    tree_masks: Array | None = None
    block_mass: Array | None = None


def step(sequences: tuple[tuple[int, int], ...], rng: np.random.Generator) -> StepInputs:
    """One step over sequences of (tokens in the cache before it, tokens of this step).

    Physical blocks are dealt out in random order, so that a kernel that ignores the block table is found.
    """
    past, new = np.array(sequences, np.int32).T
    lengths = past + new
    blocks = -(-lengths // BLOCK_SIZE)
    tables = np.full((len(sequences), blocks.max()), -1, np.int32)
    tables[np.arange(blocks.max()) < blocks[:, None]] = rng.permutation(blocks.sum())
    return StepInputs(
        token_ids=np.zeros(new.sum(), np.int32),
        positions=np.concatenate([np.arange(p, p + n, dtype=np.int32) for p, n in sequences]),
        cu_seqlens=np.concatenate([[0], np.cumsum(new)]).astype(np.int32),
        kv_lengths=lengths.astype(np.int32),
        block_tables=tables,
    )
