"""Qwen2 and Qwen2.5 (biases on q, k and v) and Qwen3 (RMSNorm over every query and key head), dense models."""

from whimbrel.models.families.family import CHATML, Family

_SLIDING = frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types", "use_mrope"})

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    gguf_arch="qwen2",
    gguf_permuted=False,
    attention_bias=True,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768},
    extra_keys=_SLIDING,
    chat_template=CHATML,
)
QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    gguf_arch="qwen3",
    gguf_permuted=False,
    qk_norm=True,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 128},
    extra_keys=_SLIDING,
    chat_template=CHATML,
)
