"""ModelConfig: reading, writing, counting, and refusing what the decoder can't do."""

import logging
from typing import Any

import pytest

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import FormatError, UnsupportedModel
from whimbrel.models.config import ModelConfig
from whimbrel.models.presets import PRESETS, preset
from whimbrel.testing import tiny


@pytest.mark.parametrize("name, count", [
    ("minicpm4-0.5b", 433_873_920), ("minicpm4-8b", 8_185_253_888), ("minicpm4.1-8b", 8_185_253_888),
])  # fmt: skip
def test_presets_have_the_published_parameter_counts(name: str, count: int) -> None:
    assert preset(name).num_parameters() == count


def test_unknown_presets_name_the_known() -> None:
    with pytest.raises(ValueError, match=r"minicpm4-8b"):
        preset("minicpm9")


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_presets_survive_config_json(config: ModelConfig) -> None:
    assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_families_survive_config_json(family: str) -> None:
    config = tiny.config(family)
    assert config.model_type == family
    assert ModelConfig.from_hf(config.to_hf()) == config
    assert sum(array.size for array in tiny.weights(config).values()) == config.num_parameters()


def test_mup_scalings() -> None:
    config = tiny.config("minicpm", num_hidden_layers=4)
    assert config.scale_emb == 12
    assert config.residual_scale == pytest.approx(1.4 / 2)
    assert config.logit_scale == 64 / 256
    plain = tiny.config("llama")
    assert (plain.scale_emb, plain.residual_scale, plain.logit_scale) == (1, 1, 1)
    assert plain.attention_scale == pytest.approx(64**-0.5)


def test_both_spellings_of_rope() -> None:
    scaling = {"factor": 2.0}
    old = tiny.config("llama", rope_theta=7.0, rope_scaling={"type": "linear", **scaling})
    data = tiny.hf_config("llama", rope_parameters={"rope_theta": 7.0, "rope_type": "linear", **scaling})
    del data["rope_theta"]
    assert ModelConfig.from_hf(data).rope == old.rope
    assert (old.rope.kind, old.rope.theta, old.rope.factor) == ("linear", 7.0, 2.0)


def test_unknown_keys_are_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = tiny.config("minicpm", shields="up", torch_dtype="bfloat16", warp_factor=9)
    assert config.unknown_keys == ("shields", "warp_factor")
    assert "shields, warp_factor" in caplog.text


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_all_of_what_transformers_writes_is_understood(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(**tiny.hf_config(family)).to_dict()
    config = ModelConfig.from_hf(theirs)
    assert config == tiny.config(family)
    assert not config.unknown_keys


@pytest.mark.parametrize("changes, reason", [
    ({"model_type": "mamba"}, r"'mamba'.*llama, minicpm, qwen2, qwen3"),
    ({"model_type": None}, "None"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ({"attention_bias": True}, "attention_bias"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"use_sliding_window": True}, "use_sliding_window"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "dynamic"),
    ({"rope_parameters": {"full": {"rope_type": "default"}}}, "differ between layers"),
    ({"head_dim": 63}, "odd"),
])  # fmt: skip
def test_what_the_decoder_cannot_do_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        tiny.config("llama", **changes)


@pytest.mark.parametrize("changes, reason", [
    ({"hidden_size": None}, "hidden_size is missing"),
    ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"num_attention_heads": True}, "num_attention_heads is True"),
    ({"num_key_value_heads": 2}, "evenly"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ({"rope_theta": float("nan")}, "rope_theta"),
    ({"rope_scaling": {"rope_type": "longrope", "short_factor": 3}}, "short_factor"),
    ({"vocab_size": -5}, "vocab_size"),
])  # fmt: skip
def test_impossible_values_are_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        tiny.config("llama", **changes)


GGUF = {
    "general.architecture": "minicpm",
    "minicpm.vocab_size": 320,
    "minicpm.context_length": 1024,
    "minicpm.embedding_length": 256,
    "minicpm.block_count": 4,
    "minicpm.feed_forward_length": 256,
    "minicpm.attention.head_count": 4,
    "minicpm.attention.head_count_kv": 2,
    "minicpm.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "minicpm.embedding_scale": 12.0,
    "minicpm.residual_scale": 0.7,
    "minicpm.logit_scale": 4.0,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 4,
}


def test_gguf_metadata() -> None:
    config = ModelConfig.from_gguf(GGUF)
    assert config.head_dim == 64
    assert config.rms_norm_eps == 1e-5
    assert (config.scale_emb, config.residual_scale, config.logit_scale) == (12, 0.7, 0.25)
    assert config.eos_token_ids == (2, 4)
    assert not config.tie_word_embeddings
    assert ModelConfig.from_gguf(GGUF, ["token_embd.weight"]).tie_word_embeddings


def test_gguf_files_of_the_first_converters_lack_the_scalings() -> None:
    old = {key: value for key, value in GGUF.items() if not key.endswith("_scale")}
    config = ModelConfig.from_gguf(old)
    assert config.scale_emb == 12
    assert config.residual_scale == pytest.approx(0.7)
    assert config.logit_scale == pytest.approx(256 / 256)


@pytest.mark.parametrize("changes, error, reason", [
    ({"general.architecture": "gemma"}, UnsupportedModel, r"'gemma'.*minicpm"),
    ({"minicpm.expert_count": 8}, UnsupportedModel, "expert_count"),
    ({"minicpm.rope.dimension_count": 32}, UnsupportedModel, "dimension_count"),
    ({"minicpm.attention.value_length": 32}, UnsupportedModel, "value_length"),
    ({"minicpm.block_count": "four"}, FormatError, "block_count"),
    ({"minicpm.attention.head_count": 0}, FormatError, "head_count"),
])  # fmt: skip
def test_gguf_metadata_that_is_refused(changes: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        ModelConfig.from_gguf({**GGUF, **changes})


def test_unknown_gguf_keys_are_kept() -> None:
    assert ModelConfig.from_gguf({**GGUF, "minicpm.ssm.groups": 1}).unknown_keys == ("minicpm.ssm.groups",)


MARK = {f"minicpm.attention.sparse.{name}": value for name, value in SparseConfig(topk=9).to_hf().items()}


def test_a_mark_of_sparse_attention_is_read_and_written() -> None:
    marked = tiny.config("llama", sparse_config={"topk": 9})
    assert marked.sparse == SparseConfig(topk=9) and not marked.unknown_keys
    assert ModelConfig.from_hf(marked.to_hf()) == marked
    assert "sparse_config" not in tiny.config("llama").to_hf()
    with pytest.raises(FormatError, match="top_k is unknown"):
        tiny.config("llama", sparse_config={"top_k": 9})
    config = ModelConfig.from_gguf({**GGUF, **MARK})
    assert config.sparse == SparseConfig(topk=9) and not config.unknown_keys
    assert ModelConfig.from_gguf(GGUF).sparse is None


def test_presets_are_marked() -> None:
    assert all(config.sparse == SparseConfig() for config in PRESETS.values())


def test_a_damaged_mark_is_refused_and_an_unknown_key_of_it_kept() -> None:
    with pytest.raises(FormatError, match="topk is 'nine'"):
        ModelConfig.from_gguf({**GGUF, **MARK, "minicpm.attention.sparse.topk": "nine"})
    later = "minicpm.attention.sparse.rounds"
    assert ModelConfig.from_gguf({**GGUF, **MARK, later: 2}).unknown_keys == (later,)
