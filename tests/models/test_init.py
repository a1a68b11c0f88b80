"""Random checkpoints: complete, loadable here and in transformers, reproducible, and all or nothing."""

import json
import math
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from whimbrel.errors import DoesNotFit, UsageError
from whimbrel.formats.rounding import to_float32
from whimbrel.formats.safetensors import Checkpoint
from whimbrel.models.config import ModelConfig
from whimbrel.models.init import CONTROL_TOKENS, hf_shapes, init_checkpoint
from whimbrel.models.loading import load_model
from whimbrel.models.presets import PRESETS
from whimbrel.testing import tiny


@pytest.fixture
def small() -> ModelConfig:
    """A MiniCPM4 in all but size."""
    return replace(
        PRESETS["minicpm4-8b"],
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=128,
        residual_scale=1.4 / math.sqrt(2),
        eos_token_ids=(2, 392),
    )


def test_a_checkpoint_loads_and_is_what_was_asked(tmp_path: Path, small: ModelConfig) -> None:
    seen: list[tuple[int, int]] = []
    folder = init_checkpoint(small, tmp_path / "new", progress=lambda done, total: seen.append((done, total)))
    model = load_model(folder)
    assert model.config == small
    assert not model.config.unknown_keys
    assert seen[-1] == (2 * small.num_parameters(), 2 * small.num_parameters())
    assert set(Checkpoint(folder).tensors) == set(hf_shapes(small))
    weights = model.params.layers[1].down_proj.dequantize()
    assert weights.std() == pytest.approx(0.1, rel=0.05)
    assert abs(weights.mean()) < 0.01
    assert (model.params.norm == 1).all()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert str(file.get_tensor("model.norm.weight").dtype) == "torch.bfloat16"


def test_its_tokenizer_works(tmp_path: Path, small: ModelConfig) -> None:
    model = load_model(init_checkpoint(small, tmp_path / "new"))
    text = "Hallo, wörld 🐦"
    ids = model.tokenizer.encode(text)
    assert ids[0] == 1
    assert model.tokenizer.decode(ids, skip_special=True) == text
    assert model.tokenizer.vocab_size == small.vocab_size
    assert [model.tokenizer.token_id(name) for name in CONTROL_TOKENS] == list(range(392, 400))
    assert model.chat_template is not None
    prompt = model.chat_template.render([{"role": "user", "content": "hi"}])
    assert 393 in model.tokenizer.encode(prompt, parse_special=True)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, small: ModelConfig) -> None:
    files = [
        (init_checkpoint(small, tmp_path / str(i), seed=seed) / "model.safetensors").read_bytes()
        for i, seed in enumerate((7, 7, 8))
    ]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_shapes_of_every_family(family: str) -> None:
    config = tiny.config(family)
    assert hf_shapes(config) == {name: array.shape for name, array in tiny.weights(config).items()}
    assert sum(int(np.prod(shape)) for shape in hf_shapes(config).values()) == config.num_parameters()


def test_transformers_loads_a_llama(tmp_path: Path, small: ModelConfig) -> None:
    transformers = pytest.importorskip("transformers")
    plain = replace(small, model_type="llama", scale_emb=1.0, residual_scale=1.0, logit_scale=1.0)
    folder = init_checkpoint(plain, tmp_path / "new")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    q = model.model.layers[0].self_attn.q_proj.weight.float().detach().numpy()
    np.testing.assert_array_equal(q, to_float32(Checkpoint(folder).array("model.layers.0.self_attn.q_proj.weight")))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("hello").input_ids == load_model(folder).tokenizer.encode("hello")


def test_a_folder_in_use_is_left_alone(tmp_path: Path, small: ModelConfig) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        init_checkpoint(small, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError):
        init_checkpoint(small, tmp_path / "notes.txt")


def test_nothing_stays_after_an_interruption(tmp_path: Path, small: ModelConfig) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        init_checkpoint(small, tmp_path / "new", progress=interrupt)
    assert not (tmp_path / "new").exists()


def test_a_small_disk_is_noticed_first(tmp_path: Path, small: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(DoesNotFit, match="disk"):
        init_checkpoint(small, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_config_json_is_the_published_one(tmp_path: Path, small: ModelConfig) -> None:
    data = json.loads((init_checkpoint(small, tmp_path / "new") / "config.json").read_text())
    expected = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 4, "initializer_range": 0.1}
    assert {key: data[key] for key in expected} == expected
    assert data["architectures"] == ["MiniCPMForCausalLM"]
    assert len(data["rope_scaling"]["long_factor"]) == 64
