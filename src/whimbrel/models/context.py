"""Contexts beyond training: which rotary frequencies serve positions that a model has never seen.

Up to ``max_position_embeddings`` nothing changes. Beyond it,

- MiniCPM4 and 4.1 (their LongRoPE factors are recognised by value) get the factors published for 128k: YaRN's
  correction of the native ones, with stretch 4 for the models of 32k and 2 for those of 64k, without a temperature.
  What lies beyond 128k is stretched by the same formula, with a warning;
- every other model is stretched in its own kind (linear, llama3, yarn, longrope), or by YaRN where its frequencies
  are plain (Peng et al. 2023: NTK-by-parts and the temperature ``0.1 ln s + 1``), with a warning. Measured on
  SmolLM2-135M (8,192) with 12,000 tokens of PEPs: perplexity of the last 3,000 is 10.6, and 17.5 with the plain
  frequencies; of the first 3,000 it is 14.8 instead of 14.6.

The published code drops LongRoPE's amplitude m, transformers derives it from ``max_position_embeddings``: at 128k
1.065 instead of 1. Here m stays what the configuration itself says: 1 in the published files.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from whimbrel.errors import InvalidParameter
from whimbrel.models.config import ModelConfig
from whimbrel.models.notice import Notice
from whimbrel.models.presets import FACTORS_0_5B, FACTORS_4_1, FACTORS_8B
from whimbrel.models.rope import RopeConfig, amplitude, yarn_correction

Factors = npt.NDArray[np.float64]

PUBLISHED_CONTEXT = 131_072
"""The context of the long factors that MiniCPM4's authors publish."""

MAX_STRETCH = 32
"""Nobody has shown that YaRN works beyond: Peng et al. went from 4k to 128k."""

_PUBLISHED = {32_768: (FACTORS_0_5B, FACTORS_8B), 65_536: (FACTORS_4_1,)}
"""trained context -> native factors of the models that have it"""

SAME = 0.01
"""Relative difference below which two arrays of factors are the same; neighbours in an array differ by more."""


def trained_context(config: ModelConfig) -> int:
    """Tokens for which there are published frequencies: the trained context, or 128k of a MiniCPM4."""
    longest = config.max_position_embeddings
    return longest if _native_factors(config) is None else max(longest, PUBLISHED_CONTEXT)


def extended(config: ModelConfig, context: int) -> tuple[ModelConfig, Notice | None]:
    """The configuration whose rotary embedding serves ``context`` tokens, and what to tell about it.

    The result's ``max_position_embeddings`` is what its frequencies were made for. Raises ``InvalidParameter`` beyond
    32 times the trained context.
    """
    trained = config.max_position_embeddings
    if context <= trained:
        return config, None
    stretch = context / trained
    if stretch > MAX_STRETCH:
        raise InvalidParameter(
            f"a context of {context:,} tokens is {stretch:,.0f} times the {trained:,} that this model was trained for;"
            f" beyond {MAX_STRETCH} times ({MAX_STRETCH * trained:,}) no positions make sense: lower the context"
        )
    factors = _native_factors(config)
    if factors is not None:
        return _published(config, factors, context)
    rope = _stretched(config, stretch)
    return replace(config, rope=rope, max_position_embeddings=context), Notice(
        f"a context of {context:,} tokens is beyond the {trained:,} that this model was trained for: its rotary embedding"
        f" ({rope.kind}) is stretched {stretch:.3g} times, and answers suffer",
        warning=True,
    )


def _published(config: ModelConfig, factors: Factors, context: int) -> tuple[ModelConfig, Notice]:
    """MiniCPM4's long factors: those for 128k serve everything up to there."""
    native = config.max_position_embeddings
    covered = max(PUBLISHED_CONTEXT, context)
    stretch = covered / native
    corrected = yarn_correction(factors, stretch, theta=config.rope.theta)
    # m is pinned: it would follow from the new max_position_embeddings, and the published factors go without it.
    rope = replace(
        config.rope,
        long_factor=tuple(corrected.tolist()),
        original_max_position_embeddings=native,
        attention_factor=amplitude(config.rope, native),
    )
    text = f"a context of {context:,} tokens: MiniCPM4's factors for {native:,}, corrected for {covered:,} (stretch {stretch:g})"
    if context > PUBLISHED_CONTEXT:
        notice = Notice(
            f"{text}; nobody published factors beyond {PUBLISHED_CONTEXT:,}, and answers suffer", warning=True
        )
    else:
        notice = Notice(f"{text} as published")
    return replace(config, rope=rope, max_position_embeddings=covered), notice


def _stretched(config: ModelConfig, stretch: float) -> RopeConfig:
    """The same kind of rotary embedding for ``stretch`` times the context; YaRN's for plain frequencies."""
    rope = config.rope
    original = rope.original_max_position_embeddings or config.max_position_embeddings
    if rope.kind == "default":
        return replace(rope, kind="yarn", factor=stretch, original_max_position_embeddings=original)
    if rope.kind != "longrope":
        return replace(rope, factor=rope.factor * stretch, original_max_position_embeddings=original)
    long = np.array(rope.long_factor or rope.short_factor)
    factors = yarn_correction(long, stretch, theta=rope.theta, pretrained=config.max_position_embeddings)
    return replace(rope, long_factor=tuple(factors.tolist()), original_max_position_embeddings=original)


def _native_factors(config: ModelConfig) -> Factors | None:
    """MiniCPM4's long factors before any correction; None if these are not its own, or for another context.

    The authors have users paste the corrected array into config.json, so that one is recognised too.
    """
    rope, native = config.rope, config.max_position_embeddings
    original = rope.original_max_position_embeddings or native
    if config.model_type != "minicpm" or rope.kind != "longrope" or original != native:
        return None
    own = np.array(rope.long_factor)
    for known in map(np.array, _PUBLISHED.get(native, ())):
        if len(known) == len(own) and np.allclose(own, known, rtol=SAME):
            return own
        corrected = yarn_correction(known, PUBLISHED_CONTEXT / native, theta=rope.theta)
        if len(known) == len(own) and np.allclose(own, corrected, rtol=SAME):
            return known
    return None
