"""Rotary tables: the published LongRoPE arrays, amplitudes, and the transformers library's frequencies."""

import math
from typing import Any

import numpy as np
import pytest

from whimbrel.errors import UnsupportedModel
from whimbrel.models import presets
from whimbrel.models.rope import (
    RopeConfig,
    amplitude,
    inverse_frequencies,
    logistic_factors,
    rope_table,
    yarn_correction,
)
from whimbrel.testing import tiny

LISTED_8B = (
    0.9977997200264581, 1.014658295992452, 1.0349680404997148, 1.059429246056193, 1.0888815016813513,
    1.1243301355211495, 1.166977103606075, 1.2182568066927284, 1.2798772354275727, 1.3538666751582975,
    1.4426259039919596, 1.5489853358570191, 1.6762658237220625, 1.8283407612492941, 2.0096956085876183,
    2.225478927469756, 2.481536379650452, 2.784415934557119, 3.1413289096347365, 3.560047844772632,
    4.048719380066383, 4.615569542115128, 5.2684819496549835, 6.014438591970396, 6.858830049237097,
    7.804668263503327, 8.851768731513417, 9.99600492938444, 11.228766118181639, 12.536757560834843,
    13.902257701387796, 15.303885189125953, 16.717837610115794,
)  # fmt: skip


def test_closed_form_of_the_8b() -> None:
    """Invariant 11: the logistic curve gives the published array, and the array its own symmetry."""
    factors = np.array(presets.FACTORS_8B)
    np.testing.assert_allclose(factors[:33], LISTED_8B, rtol=0, atol=1e-9)
    assert factors[63] == pytest.approx(31.02392307921529, abs=1e-9)
    np.testing.assert_allclose(factors + factors[::-1], 32.02172279924175, rtol=0, atol=1e-9)


def test_closed_forms_of_the_others() -> None:
    half_b = logistic_factors(32, 25.426911, 24.573088, 0.374953)
    np.testing.assert_allclose(half_b, presets.FACTORS_0_5B, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        logistic_factors(64, 32.0034, 31.1746, 0.187477), presets.FACTORS_4_1, rtol=0, atol=1.5e-3
    )


def test_yarn_ratios_reproduce_the_128k_arrays() -> None:
    """Invariant 11, second half: entries 20, 21, 46 and 63 of the published long-context arrays."""
    four = yarn_correction(np.array(presets.FACTORS_8B), 4)
    published = {20: 4.048719380066383, 21: 4.752651957515948, 46: 116.9492274587385, 63: 124.09569231686116}
    for index, value in published.items():
        assert four[index] == pytest.approx(value, abs=1e-9), index
    two = yarn_correction(np.array(presets.FACTORS_4_1), 2)
    assert two[21] == pytest.approx(8.6357018163639, abs=1e-9)
    assert two[63] == pytest.approx(126.01712561287873, abs=1e-9)


@pytest.mark.parametrize(
    "context, original, m", [(32768, 32768, 1.0), (131072, 32768, 1.0646), (131072, 65536, 1.0308)]
)
def test_longrope_amplitude(context: int, original: int, m: float) -> None:
    rope = RopeConfig(kind="longrope", original_max_position_embeddings=original)
    assert amplitude(rope, context) == pytest.approx(m, abs=5e-5)
    assert amplitude(RopeConfig(kind="longrope", attention_factor=1.25), context) == 1.25


def test_long_factors_serve_long_contexts_only() -> None:
    rope = RopeConfig(
        kind="longrope", short_factor=(1.0, 2.0), long_factor=(4.0, 8.0), original_max_position_embeddings=100
    )
    plain = 10000.0 ** -np.array([0, 0.5])
    np.testing.assert_allclose(inverse_frequencies(rope, 4, 400, 100), plain / [1, 2])
    np.testing.assert_allclose(inverse_frequencies(rope, 4, 400, 101), plain / [4, 8])
    with pytest.raises(UnsupportedModel, match="8 factors"):
        inverse_frequencies(rope, 16, 400, 50)


def test_table_turns_pairs_by_position_times_frequency() -> None:
    config = tiny.config("llama", rope_theta=500.0)
    table = rope_table(config, 9000)
    assert table.cos.shape == table.sin.shape == (9000, 32)
    assert table.cos.dtype == table.sin.dtype == np.float32
    for position, pair in [(0, 0), (1, 0), (8999, 0), (8191, 5), (77, 31)]:
        angle = position * 500.0 ** (-2 * pair / 64)
        assert table.cos[position, pair] == pytest.approx(math.cos(angle), abs=1e-6)
        assert table.sin[position, pair] == pytest.approx(math.sin(angle), abs=1e-6)


SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
    "yarn, mscale": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "mscale": 1.0,
        "mscale_all_dim": 0.5, "beta_fast": 16, "beta_slow": 2,
    },
    "longrope": {
        "rope_type": "longrope", "original_max_position_embeddings": 256,
        "short_factor": [1 + i / 9 for i in range(32)], "long_factor": [2 + i / 3 for i in range(32)],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("length", [200, 1000])
def test_frequencies_are_those_of_transformers(name: str, length: int) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = SCALINGS[name]
    config = tiny.config("llama", rope_theta=20000.0, rope_scaling=scaling)
    theirs = transformers.LlamaConfig(
        hidden_size=192,
        num_attention_heads=3,
        head_dim=64,
        max_position_embeddings=1024,
        rope_parameters={**scaling, "rope_theta": 20000.0},
    )
    ours = inverse_frequencies(config.rope, 64, 1024, length)
    if scaling["rope_type"] == "default":
        np.testing.assert_allclose(ours, 20000.0 ** (-np.arange(0, 64, 2) / 64), rtol=1e-12)
        return
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, "cpu", seq_len=length)
    np.testing.assert_allclose(ours, frequencies.numpy(), rtol=1e-5)
    assert amplitude(config.rope, 1024) == pytest.approx(factor, rel=1e-6)


def test_unknown_kinds_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"dynamic.*longrope"):
        RopeConfig(kind="dynamic")
