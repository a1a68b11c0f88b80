"""Contexts beyond training: which factors are picked, and what is said about them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from whimbrel.errors import InvalidParameter
from whimbrel.models.config import ModelConfig
from whimbrel.models.context import extended, trained_context
from whimbrel.models.presets import FACTORS_4_1, FACTORS_8B, preset
from whimbrel.models.rope import RopeConfig, amplitude, inverse_frequencies, rope_table, yarn_correction
from whimbrel.testing import tiny

PRESETS = ("minicpm4-0.5b", "minicpm4-8b", "minicpm4.1-8b")


def frequencies(config: ModelConfig, context: int) -> np.ndarray:
    return inverse_frequencies(config.rope, config.head_dim, config.max_position_embeddings, context)


@pytest.mark.parametrize("name", PRESETS)
def test_up_to_the_trained_length_nothing_changes(name: str) -> None:
    config = preset(name)
    assert extended(config, config.max_position_embeddings) == (config, None)
    assert trained_context(config) == 131_072


@pytest.mark.parametrize(("name", "native", "published"), [
    ("minicpm4-8b", FACTORS_8B, {20: 4.048719380066383, 21: 4.752651957515948, 46: 116.9492274587385, 63: 124.09569231686116}),
    ("minicpm4.1-8b", FACTORS_4_1, {21: 8.6357018163639, 63: 126.01712561287873}),
])  # fmt: skip
@pytest.mark.parametrize("context", [65_537, 131_072])
def test_minicpm4_gets_the_published_factors(
    name: str, native: tuple[float, ...], published: dict[int, float], context: int
) -> None:
    """Invariant 11, by --context alone: stretch 4 for 32k models, 2 for 64k ones, no amplitude."""
    config, notice = extended(preset(name), context)
    assert notice and not notice.warning and "as published" in notice.text
    assert config.max_position_embeddings == 131_072
    for index, value in published.items():
        assert config.rope.long_factor[index] == pytest.approx(value, abs=1e-9)
    assert config.rope.short_factor == native
    assert amplitude(config.rope, config.max_position_embeddings) == 1
    plain = 10000.0 ** -(np.arange(64) / 64)
    np.testing.assert_allclose(frequencies(config, context), plain / config.rope.long_factor)
    assert extended(config, 131_072) == (config, None)


def test_the_small_one_is_corrected_by_the_same_formula() -> None:
    config, _ = extended(preset("minicpm4-0.5b"), 100_000)
    np.testing.assert_allclose(
        config.rope.long_factor, yarn_correction(np.array(preset("minicpm4-0.5b").rope.long_factor), 4)
    )


def test_factors_that_were_corrected_by_hand_are_not_corrected_again() -> None:
    """The authors have users paste the array for 128k into config.json."""
    pasted = tuple(np.float32(yarn_correction(np.array(FACTORS_8B), 4)).tolist())
    by_hand = replace(
        preset("minicpm4-8b"), rope=replace(preset("minicpm4-8b").rope, long_factor=pasted, short_factor=pasted)
    )
    config, notice = extended(by_hand, 131_072)
    assert notice and not notice.warning
    np.testing.assert_allclose(config.rope.long_factor, pasted, rtol=1e-6)


def test_the_amplitude_is_what_the_configuration_itself_says() -> None:
    """Whoever raises max_position_embeddings gets transformers' m; --context alone does not."""
    native = preset("minicpm4-8b")
    raised = replace(native, max_position_embeddings=131_072)
    assert extended(raised, 131_072) == (raised, None)
    assert amplitude(raised.rope, raised.max_position_embeddings) == pytest.approx(1.0646, abs=5e-5)
    table = rope_table(extended(native, 40_000)[0], 8)
    np.testing.assert_allclose(table.cos**2 + table.sin**2, 1, atol=1e-6)


def test_nobody_published_factors_beyond_128k() -> None:
    config, notice = extended(preset("minicpm4-8b"), 262_144)
    assert notice and notice.warning and "131,072" in notice.text
    np.testing.assert_allclose(config.rope.long_factor, yarn_correction(np.array(FACTORS_8B), 8))
    assert config.max_position_embeddings == 262_144 and amplitude(config.rope, 262_144) == 1


def test_a_stranger_with_longrope_is_stretched_with_a_warning() -> None:
    config = tiny.config("minicpm")
    stretched, notice = extended(config, 4096)
    assert notice and notice.warning and trained_context(config) == 1024
    ratio = np.array(stretched.rope.long_factor) / config.rope.long_factor
    assert ratio[0] == 1 and ratio[-1] == 4 and (np.diff(ratio) >= 0).all()
    assert amplitude(stretched.rope, 4096) == pytest.approx(math.sqrt(1 + math.log(4) / math.log(1024)))


def test_plain_frequencies_are_stretched_by_yarn() -> None:
    config = tiny.config("llama")
    stretched, notice = extended(config, 4096)
    assert notice and notice.warning and "4,096" in notice.text and "1,024" in notice.text and "(yarn)" in notice.text
    assert stretched.rope == RopeConfig(kind="yarn", factor=4.0, original_max_position_embeddings=1024)
    plain, long = frequencies(config, 1024), frequencies(stretched, 4096)
    assert long[0] == plain[0] and long[-1] == pytest.approx(plain[-1] / 4)
    assert amplitude(stretched.rope, 4096) == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_other_kinds_are_stretched_further(kind: str) -> None:
    config = tiny.config(
        "llama", rope_scaling={"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 512}
    )
    stretched, notice = extended(config, 3072)
    assert notice and notice.warning and f"({kind})" in notice.text
    assert stretched.rope == replace(config.rope, factor=6.0)
    assert frequencies(stretched, 3072)[-1] == pytest.approx(frequencies(config, 1024)[-1] / 3)


def test_there_is_an_end() -> None:
    extended(tiny.config("llama"), 32 * 1024)
    with pytest.raises(InvalidParameter, match=r"32,769.*32,768"):
        extended(tiny.config("llama"), 32 * 1024 + 1)
