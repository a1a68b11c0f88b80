"""Loading: folders and GGUF files give the weights that were stored, or one line that says what is wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from whimbrel.errors import FormatError, InvalidParameter, ModelNotFound, UnsupportedModel, WhimbrelError
from whimbrel.formats.gguf import GGUFFile
from whimbrel.formats.gguf_writer import RawTensor, write_gguf
from whimbrel.formats.packed import PackedTensor, pack
from whimbrel.models.exporting import export_gguf
from whimbrel.models.loading import load_config, load_model, load_text_side
from whimbrel.models.params import Params
from whimbrel.models.rope import inverse_frequencies, rope_table
from whimbrel.models.sources import interleaved_rows
from whimbrel.testing import tiny


def named(params: Params, config: Any) -> dict[str, np.ndarray]:
    """Parameters in fp32, under Hugging Face names."""

    def dense(weight: Any) -> np.ndarray:
        return weight.dequantize() if isinstance(weight, PackedTensor) else weight

    found = {"model.embed_tokens.weight": dense(params.embed_tokens), "model.norm.weight": params.norm}
    if params.lm_head is not params.embed_tokens:
        found["lm_head.weight"] = dense(params.lm_head)
    for index, layer in enumerate(params.layers):
        for field, name in config.family.hf_layer_names.items():
            if field[-5:] != "_bias" and getattr(layer, field) is not None:
                found[name.format(index)] = dense(getattr(layer, field))
        if layer.qkv_bias is not None:
            heads, kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
            biases = np.split(layer.qkv_bias, [heads, heads + kv])
            for field, bias in zip(("q_bias", "k_bias", "v_bias"), biases, strict=True):
                found[config.family.hf_layer_names[field].format(index)] = bias
    return found


def assert_equal_weights(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture(params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_folder_gives_the_weights_that_were_stored(tmp_path: Path, family: str) -> None:
    model = load_model(tiny.write_checkpoint(tmp_path, family))
    assert model.config == tiny.config(family)
    assert_equal_weights(named(model.params, model.config), tiny.weights(model.config))
    assert model.generation_config["do_sample"] is False
    assert model.chat_template is not None
    assert model.chat_template.special_tokens["eos_token"] == "<|im_end|>"
    assert (model.params.lm_head is model.params.embed_tokens) == model.config.tie_word_embeddings


def test_a_gguf_file_gives_the_same_model(tmp_path: Path, family: str) -> None:
    """Invariant 15: rows of q and k come back from the order that llama.cpp's files have."""
    folder = tiny.write_checkpoint(tmp_path / "hf", family)
    path = export_gguf(folder, tmp_path / "model.gguf")
    model, original = load_model(path), load_model(folder)
    assert_equal_weights(named(model.params, model.config), tiny.weights(tiny.config(family)))
    # The file has fp32 numbers and the amplitude m in place of the original context.
    assert model.config.residual_scale == pytest.approx(original.config.residual_scale, rel=1e-7)
    kept = {"rope": original.config.rope, "residual_scale": original.config.residual_scale}
    assert replace(model.config, **kept) == original.config
    tables = [rope_table(m.config, 50) for m in (model, original)]
    np.testing.assert_array_equal(tables[0].cos, tables[1].cos)
    np.testing.assert_array_equal(tables[0].sin, tables[1].sin)
    text = "The whimbrel <s>reads ünïcode 🐦"
    assert model.tokenizer.encode(text) == original.tokenizer.encode(text)
    assert model.chat_template is not None
    assert model.chat_template.source == tiny.CHAT_TEMPLATE


@pytest.mark.parametrize("heads, head_dim", [(1, 2), (3, 64), (4, 8)])
def test_interleaving_is_undone(heads: int, head_dim: int) -> None:
    """Invariant 15: an inverse pair, and neighbours rotated in one order are halves rotated in the other."""
    rng = np.random.default_rng(0)
    original = rng.standard_normal((heads * head_dim, 5))
    # The converter's permutation: the two halves of every head become the two parts of every pair.
    stored = original.reshape(heads, 2, head_dim // 2, 5).swapaxes(1, 2).reshape(original.shape)
    order = interleaved_rows(heads, head_dim)
    np.testing.assert_array_equal(stored[order], original)
    np.testing.assert_array_equal(original[np.argsort(order)], stored)

    angle = rng.standard_normal(head_dim // 2)
    cos, sin = np.cos(angle), np.sin(angle)
    x = rng.standard_normal(5)
    neighbours = (stored @ x).reshape(heads, -1, 2)
    a, b = neighbours[..., 0], neighbours[..., 1]
    norm_rotated = np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(-1)
    first, second = np.split((original @ x).reshape(heads, head_dim), 2, axis=1)
    neox_rotated = np.concatenate([first * cos - second * sin, second * cos + first * sin], 1).reshape(-1)
    np.testing.assert_allclose(norm_rotated[order], neox_rotated, rtol=1e-12)


@pytest.mark.parametrize("weights", ["q4", "q8", "bf16", "f32"])
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_weights_are_converted_while_they_are_read(tmp_path: Path, weights: str, kind: str) -> None:
    path = tiny.write_checkpoint(tmp_path / "hf", "llama")
    if kind == "gguf":
        path = export_gguf(path, tmp_path / "m.gguf")
    model = load_model(path, weights=weights)
    stored = tiny.weights(model.config)
    layer = model.params.layers[1]
    for field, name in [("q_proj", "self_attn.q_proj"), ("up_proj", "mlp.up_proj"), ("down_proj", "mlp.down_proj")]:
        weight = getattr(layer, field)
        assert weight.layout == weights
        expected = pack(stored[f"model.layers.1.{name}.weight"], weights, 32)
        np.testing.assert_array_equal(weight.dequantize(), expected.dequantize())
    assert model.params.embed_tokens.layout == ("q8" if weights == "q4" else weights)


def test_gate_and_up_share_a_buffer(tmp_path: Path) -> None:
    layer = load_model(tiny.write_checkpoint(tmp_path, "llama")).params.layers[0]
    assert layer.up_proj.codes.ctypes.data - layer.gate_proj.codes.ctypes.data == layer.gate_proj.codes[0].nbytes


def quantized_gguf(folder: Path, types: dict[str, str]) -> Path:
    """A tiny llama whose matrices are stored in other types, by a part of their name."""
    path = export_gguf(tiny.write_checkpoint(folder / "hf", "llama", hidden_size=256), folder / "f32.gguf")
    source = GGUFFile(path)
    tensors: dict[str, Any] = {}
    for name, info in source.tensors.items():
        tensors[name] = dense = source.dequantize(name)
        kind = next((kind for part, kind in types.items() if part in name), None)
        if kind and len(info.shape) == 2:
            data = gguf.quantize(dense, gguf.GGMLQuantizationType[kind])
            tensors[name] = RawTensor(shape=info.shape, type=kind, data=data.view(np.uint8))
    write_gguf(folder / "mixed.gguf", source.metadata, tensors)
    return folder / "mixed.gguf"


def test_quantized_weights_stay_quantized(tmp_path: Path) -> None:
    types = {"token_embd": "Q8_0", "attn_q": "Q4_1", "ffn_gate": "Q4_0", "ffn_up": "Q5_1", "ffn_down": "F16"}
    path = quantized_gguf(tmp_path, types)
    params = load_model(path).params
    layer, file = params.layers[0], GGUFFile(path)
    assert (params.embed_tokens.layout, layer.q_proj.layout, layer.gate_proj.layout) == ("q8", "q4", "q4")
    assert (layer.up_proj.layout, layer.down_proj.layout, layer.k_proj.layout) == ("q8", "f16", "f32")
    assert layer.q_proj.mins is not None
    np.testing.assert_array_equal(layer.up_proj.dequantize(), file.dequantize("blk.0.ffn_up.weight"))
    order = interleaved_rows(3, 64)
    np.testing.assert_array_equal(layer.q_proj.dequantize(), file.dequantize("blk.0.attn_q.weight")[order])
    # Asking for what is stored quantizes nothing twice.
    again = load_model(path, weights="q4").params.layers[0]
    np.testing.assert_array_equal(again.q_proj.codes, layer.q_proj.codes)
    assert again.up_proj.layout == again.down_proj.layout == "q4"


def test_frequency_factors_of_llama_3(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }  # fmt: skip
    expected = rope_table(tiny.config("llama", rope_scaling=scaling), 300)
    plain = export_gguf(tiny.write_checkpoint(tmp_path / "hf", "llama"), tmp_path / "plain.gguf")
    source = GGUFFile(plain)
    tensors: dict[str, Any] = {name: source.dequantize(name) for name in source.tensors}
    llama3 = tiny.config("llama", rope_scaling=scaling)
    ratio = inverse_frequencies(tiny.config("llama").rope, 64, 1024, 300) / inverse_frequencies(
        llama3.rope, 64, 1024, 300
    )
    write_gguf(tmp_path / "l3.gguf", source.metadata, {**tensors, "rope_freqs.weight": ratio.astype(np.float32)})
    found = rope_table(load_config(tmp_path / "l3.gguf"), 300)
    np.testing.assert_allclose(found.cos, expected.cos, atol=3e-5)
    assert found.cos[0, 0] == 1


# Damage: one line that names the part.


def edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**data, **changes}))

    return edit


def edit_tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


Q = "model.layers.1.self_attn.q_proj.weight"
DAMAGE: dict[str, tuple[Callable[[Path], None], type[WhimbrelError], str]] = {
    "no config": (remove("config.json"), ModelNotFound, "config.json"),
    "broken config": (write("config.json", "{"), FormatError, "config.json"),
    "listed config": (write("config.json", "[]"), FormatError, "object"),
    "no weights": (remove("model.safetensors"), ModelNotFound, "model.safetensors"),
    "no tokenizer": (remove("tokenizer.json"), FormatError, "no tokenizer"),
    "broken tokenizer": (write("tokenizer.json", "{}"), FormatError, "tokenizer.json"),
    "broken settings": (write("tokenizer_config.json", "{"), FormatError, "tokenizer_config.json"),
    "missing tensor": (edit_tensors(lambda t: t.pop(Q)), FormatError, f"{Q}' is missing"),
    "wrong shape": (edit_tensors(lambda t: t.update({Q: t[Q][:-1]})), FormatError, rf"{Q}' has shape \(191, 192\)"),
    "leftover": (
        edit_tensors(lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": t["model.norm.weight"]})),
        UnsupportedModel, "o_proj.bias"),
    "integer tensor": (edit_tensors(lambda t: t.update({Q: t[Q].astype(np.int8)})), UnsupportedModel, "I8"),
    "architecture": (edit_json("config.json", model_type="gpt_neox"), UnsupportedModel, "gpt_neox"),
    "other shapes": (edit_json("config.json", intermediate_size=300), FormatError, "configuration asks for"),
    "small vocabulary": (edit_json("config.json", vocab_size=100), FormatError, "embed_tokens"),
    "end token": (edit_json("generation_config.json", eos_token_id=999), FormatError, "999"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders_say_what_is_wrong(tmp_path: Path, case: str) -> None:
    damage, error, reason = DAMAGE[case]
    damage(tiny.write_checkpoint(tmp_path, "llama"))
    with pytest.raises(error, match=reason) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_not_a_number_can_be_kept_but_not_quantized(tmp_path: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[Q] = tensors[Q].copy()
        tensors[Q][3, 4] = np.nan

    edit_tensors(spoil)(tiny.write_checkpoint(tmp_path, "llama"))
    load_model(tmp_path)
    with pytest.raises(FormatError, match=r"q_proj.*fp16"):
        load_model(tmp_path, weights="q4")


def test_wrong_paths_and_layouts(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        load_model(tmp_path)
    with pytest.raises(InvalidParameter, match=r"q3.*q4"):
        load_model(tmp_path, weights="q3")
    (tmp_path / "text.gguf").write_text("hello, this is no model")
    with pytest.raises(FormatError, match="not a GGUF file"):
        load_model(tmp_path / "text.gguf")


def test_a_gguf_file_without_its_tokenizer(tmp_path: Path) -> None:
    path = export_gguf(tiny.write_checkpoint(tmp_path / "hf", "llama"), tmp_path / "m.gguf")
    source = GGUFFile(path)
    metadata = {key: value for key, value in source.metadata.items() if not key.startswith("tokenizer")}
    write_gguf(path, metadata, {name: source.dequantize(name) for name in source.tensors})
    with pytest.raises(FormatError, match="tokenizer"):
        load_model(path)


def test_a_truncated_gguf_file(tmp_path: Path) -> None:
    path = export_gguf(tiny.write_checkpoint(tmp_path / "hf", "llama"), tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(FormatError, match="truncated"):
        load_model(path)


def test_the_familys_template_is_used_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny.write_checkpoint(tmp_path, "minicpm")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    text = load_text_side(folder)
    assert text.chat_template is not None
    assert "has no chat template" in caplog.text
    shutil.copy(folder / "tokenizer_config.json", folder / "kept.json")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    jinja = load_text_side(folder).chat_template
    assert jinja is not None
    assert jinja.render([{"role": "user", "content": "hi"}]) == "hi!"


def test_configuration_alone_needs_no_tokenizer_library(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "llama")
    code = (
        "import sys; from whimbrel.models.loading import load_config;"
        f"load_config({str(folder)!r});"
        "print([m for m in ('tokenizers', 'jinja2', 'torch', 'safetensors', 'gguf') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_real_model(smollm2: Path) -> None:
    model = load_model(smollm2)
    assert model.config.num_parameters() == 134_515_008
    assert model.config.tie_word_embeddings
    assert model.config.eos_token_ids == (2, 0)
    assert not model.config.unknown_keys
    file = GGUFFile(smollm2)
    stored = gguf.GGUFReader(smollm2)
    k = next(tensor for tensor in stored.tensors if tensor.name == "blk.7.attn_k.weight")
    dense = gguf.dequantize(k.data, k.tensor_type)
    np.testing.assert_array_equal(
        model.params.layers[7].k_proj.dequantize(), dense.reshape(3, 32, 2, 576).swapaxes(1, 2).reshape(192, 576)
    )
    assert sum(w.nbytes for layer in model.params.layers for w in (layer.gate_proj, layer.up_proj)) == sum(
        info.nbytes for name, info in file.tensors.items() if "ffn_gate" in name or "ffn_up" in name
    )
