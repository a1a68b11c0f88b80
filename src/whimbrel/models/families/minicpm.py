"""MiniCPM, MiniCPM4 and MiniCPM4.1: Llama with muP scalings (scale_emb, scale_depth, dim_model_base) and LongRoPE.

Source: MiniCPM (2024), section 4; MiniCPM4 technical report, section 2. ``mup_denominator`` concerns drafting heads.
"""

from whimbrel.models.families.family import CHATML, Family

MINICPM = Family(
    model_type="minicpm",
    architecture="MiniCPMForCausalLM",
    gguf_arch="minicpm",
    gguf_permuted=True,
    defaults={
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "scale_emb": 1,
        "scale_depth": 1,
        "dim_model_base": 1,
    },
    extra_keys=frozenset({"scale_emb", "scale_depth", "dim_model_base", "mup_denominator"}),
    chat_template=CHATML,
)
