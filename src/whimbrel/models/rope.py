"""Rotary position embedding: the table of cosines and sines, for every kind of scaling that checkpoints use.

A head of D dimensions is D/2 pairs ``(i, i + D/2)`` (rotate-half, "NeoX"); pair ``i`` at position ``p`` turns by
``p * f_i``. The plain frequencies are ``f_i = theta^(-2i/D)``; the kinds change them, and the amplitude ``m`` that
multiplies every cosine and sine:

- ``linear``: ``f_i / factor`` (position interpolation);
- ``llama3``: long waves are divided by ``factor``, short ones kept, a linear ramp between;
- ``yarn``: the same idea with a ramp over dimensions, ``m = 0.1 ln(factor) + 1`` (Peng et al. 2023, YaRN);
- ``longrope``: ``f_i / short_factor_i``, or ``long_factor_i`` once the context exceeds the original one;
  ``m = sqrt(1 + ln(max / original) / ln(original))`` (Ding et al. 2024, LongRoPE).

The published LongRoPE arrays of MiniCPM4 are samples of a logistic curve, ``logistic_factors``; extended to 128k by
``yarn_correction``. Angles are computed in float64: a product of position and frequency in fp32 is off by 5e-4 at
position 8,000.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, UnsupportedModel

if TYPE_CHECKING:
    from whimbrel.models.config import ModelConfig

KINDS = ("default", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """What a checkpoint says about its rotary embedding. Fields of other kinds keep their defaults."""

    kind: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    """linear, llama3, yarn: how far the context is stretched"""
    original_max_position_embeddings: int | None = None
    """llama3, yarn, longrope: the context before stretching; None means ``max_position_embeddings``"""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """yarn: round the ends of the ramp to whole dimensions"""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    """yarn, longrope: the amplitude m, where the checkpoint gives it"""
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnsupportedModel(f"rope scaling {self.kind!r} is not supported; this build knows {', '.join(KINDS)}")
        positive = (self.factor, self.beta_fast, self.beta_slow, *self.short_factor, *self.long_factor)
        if self.theta <= 1 or not all(value > 0 for value in positive):
            raise FormatError(
                f"rope parameters: theta {self.theta} must exceed 1, all factors and betas must be positive"
            )
        if self.high_freq_factor <= self.low_freq_factor:
            raise FormatError(
                f"rope parameters: high_freq_factor {self.high_freq_factor} must exceed "
                f"low_freq_factor {self.low_freq_factor}"
            )
        if self.original_max_position_embeddings is not None and self.original_max_position_embeddings < 2:
            raise FormatError("rope parameters: original_max_position_embeddings must be at least 2")


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Cosines and sines, amplitude included: float32 ``[positions, head_dim / 2]`` each."""

    cos: npt.NDArray[np.float32]
    sin: npt.NDArray[np.float32]


def rope_table(config: "ModelConfig", length: int) -> RopeTable:
    """The table for positions ``0 .. length - 1``.

    LongRoPE chooses its factors by ``length`` (the longest context that this table will serve), once, so that keys in
    the cache never need another rotation.
    """
    frequencies = inverse_frequencies(config.rope, config.head_dim, config.max_position_embeddings, length)
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    m = amplitude(config.rope, config.max_position_embeddings)
    return RopeTable(cos=(np.cos(angles) * m).astype(np.float32), sin=(np.sin(angles) * m).astype(np.float32))


def inverse_frequencies(
    rope: RopeConfig, head_dim: int, max_position_embeddings: int, length: int
) -> npt.NDArray[np.float64]:
    """Radians per position of every pair: float64 ``[head_dim / 2]``."""
    plain: npt.NDArray[np.float64] = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    original = rope.original_max_position_embeddings or max_position_embeddings
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(plain, rope, original)
    if rope.kind == "yarn":
        low, high = _yarn_range(rope, head_dim, original)
        kept = 1 - _ramp(head_dim // 2, low, high)
        return plain / rope.factor * (1 - kept) + plain * kept
    if rope.kind == "longrope":
        factors = rope.long_factor if length > original else rope.short_factor
        if len(factors) != head_dim // 2:
            raise UnsupportedModel(
                f"longrope needs {head_dim // 2} factors for head_dim {head_dim}, the checkpoint has {len(factors)}"
            )
        return plain / np.asarray(factors, np.float64)
    return plain


def amplitude(rope: RopeConfig, max_position_embeddings: int) -> float:
    """The factor m of every cosine and sine; 1 for the kinds that have none."""
    if rope.kind not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.kind == "yarn":
        if rope.mscale and rope.mscale_all_dim:
            return _yarn_mscale(rope.factor, rope.mscale) / _yarn_mscale(rope.factor, rope.mscale_all_dim)
        return _yarn_mscale(rope.factor, 1.0)
    original = rope.original_max_position_embeddings
    stretch = max_position_embeddings / original if original else rope.factor
    original = original or max_position_embeddings
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0


def logistic_factors(pairs: int, center: float, height: float, slope: float) -> npt.NDArray[np.float64]:
    """``center + height * tanh(slope / 2 * (i - (pairs - 1) / 2))``: the closed form of MiniCPM4's LongRoPE arrays."""
    positions = np.arange(pairs, dtype=np.float64) - (pairs - 1) / 2
    return np.asarray(center + height * np.tanh(slope / 2 * positions), np.float64)


def yarn_correction(
    factors: npt.NDArray[np.float64], stretch: float, *, theta: float = 10000.0, pretrained: int = 4096
) -> npt.NDArray[np.float64]:
    """Native LongRoPE factors -> those published for a context ``stretch`` times as long.

    Each is multiplied by ``1 / (1 - g (1 - 1/stretch))``, rounded to four decimals as published; ``g`` is YaRN's ramp,
    whose range follows from the 4,096 tokens of pre-training, not from the native context.
    """
    pairs = len(factors)
    low, high = _yarn_range(RopeConfig(kind="yarn", theta=theta), 2 * pairs, pretrained)
    return factors * np.round(1 / (1 - _ramp(pairs, low, high) * (1 - 1 / stretch)), 4)


def _llama3(plain: npt.NDArray[np.float64], rope: RopeConfig, original: int) -> npt.NDArray[np.float64]:
    turns = original * plain / (2 * math.pi)
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(smooth, 0, 1)
    return (1 - kept) * plain / rope.factor + kept * plain


def _yarn_range(rope: RopeConfig, head_dim: int, original: int) -> tuple[float, float]:
    """First and last pair of the ramp: those that turn ``beta_fast`` and ``beta_slow`` times in the original context."""

    def pair(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, head_dim - 1)


def _ramp(pairs: int, low: float, high: float) -> npt.NDArray[np.float64]:
    if low == high:
        high += 0.001
    return np.clip((np.arange(pairs) - low) / (high - low), 0, 1)


def _yarn_mscale(stretch: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(stretch) + 1 if stretch > 1 else 1.0
