"""The published MiniCPM4 models as configurations, for random weights in their exact shapes.

Numbers come from the checkpoints' config.json. LongRoPE factors: the 0.5B has its 32 as listed, the 8B's are the
logistic curve that they sample (to 3e-14), the 4.1's second half mirrors its listed first half.
"""

import math
from dataclasses import replace
from typing import Any

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import InvalidParameter
from whimbrel.models.config import ModelConfig
from whimbrel.models.rope import RopeConfig, logistic_factors

FACTORS_0_5B = (
    1.0004360675811768, 1.0668443441390991, 1.1631425619125366, 1.3025742769241333,
    1.5040205717086792, 1.7941505908966064, 2.2101221084594727, 2.802666664123535,
    3.6389970779418945, 4.804192543029785, 6.39855432510376, 8.527148246765137,
    11.277542114257812, 14.684998512268066, 18.69317054748535, 23.13019371032715,
    27.72362518310547, 32.1606559753418, 36.168827056884766, 39.57627868652344,
    42.32667541503906, 44.45526885986328, 46.04962921142578, 47.21482849121094,
    48.05115509033203, 48.64370346069336, 49.05967712402344, 49.34980392456055,
    49.551246643066406, 49.69068145751953, 49.78697967529297, 49.85338592529297,
)  # fmt: skip
FACTORS_8B = tuple(logistic_factors(64, 16.010861399620875, 15.09508793257314, 0.18747656542932).tolist())
_FIRST_HALF_4_1 = (
    0.9982316082870437, 1.033048153422584, 1.0749920956484724, 1.1255096879436193,
    1.1863348602111476, 1.259543828902579, 1.3476188888731149, 1.4535223827776373,
    1.5807816745852985, 1.7335856049489526, 1.9168922912975785, 2.1365471404135326,
    2.3994084200118646, 2.713475511863602, 3.0880118452194134, 3.533650295140154,
    4.062463396503134, 4.687974098908333, 5.425075306704039, 6.289818967956352,
    7.29902962722721, 8.469695779093664, 9.81809877306655, 11.358657902065282,
    13.102505860712087, 15.055862949967128, 17.218348131364184, 19.581439255386453,
    22.127353314656723, 24.828633849376587, 27.6486820771775, 30.54334096108829,
)  # fmt: skip
_SUM_4_1 = 64.00679441472641
"""first factor + last; the curve is symmetric"""
FACTORS_4_1 = _FIRST_HALF_4_1 + tuple(_SUM_4_1 - factor for factor in reversed(_FIRST_HALF_4_1))


def _minicpm4(factors: tuple[float, ...], context: int, **sizes: Any) -> ModelConfig:
    """What the three share: vocabulary, muP scalings 12, 1.4 and 256, LongRoPE, two key/value heads.

    And the ``sparse_config`` that their authors publish beside the checkpoints, to be added.
    """
    rope = RopeConfig(
        kind="longrope", short_factor=factors, long_factor=factors, original_max_position_embeddings=context
    )
    config = ModelConfig(
        model_type="minicpm",
        vocab_size=73448,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        max_position_embeddings=context,
        rope=rope,
        scale_emb=12.0,
        bos_token_id=1,
        eos_token_ids=(2, 73440),
        sparse=SparseConfig(),
        **sizes,
    )
    residual, logit = 1.4 / math.sqrt(config.num_hidden_layers), 256 / config.hidden_size
    return replace(config, residual_scale=residual, logit_scale=logit)


_SHAPE_8B = {
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": 128,
}
_SHAPE_0_5B = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "head_dim": 64,
}

PRESETS: dict[str, ModelConfig] = {
    "minicpm4-0.5b": replace(
        _minicpm4(FACTORS_0_5B, 32768, **_SHAPE_0_5B), rms_norm_eps=1e-5, tie_word_embeddings=True
    ),
    "minicpm4-8b": _minicpm4(FACTORS_8B, 32768, **_SHAPE_8B),
    "minicpm4.1-8b": _minicpm4(FACTORS_4_1, 65536, **_SHAPE_8B),
}


def preset(name: str) -> ModelConfig:
    """The configuration of a published model; raises ``InvalidParameter`` with the names that exist."""
    if name not in PRESETS:
        raise InvalidParameter(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
