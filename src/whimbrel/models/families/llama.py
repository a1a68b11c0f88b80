"""Llama 2 and 3, SmolLM2, MiniCPM5, and every other checkpoint that calls itself Llama."""

from whimbrel.models.families.family import Family

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    gguf_arch="llama",
    gguf_permuted=True,
    defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    extra_keys=frozenset({"is_llama_config", "rope_interleaved"}),
)
