"""The shared aids do their job: the tolerance fails when it should, poison reaches, tiny models are what they say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from whimbrel.formats.packed import pack
from whimbrel.testing import tiny
from whimbrel.testing.poison import poisoned_memory
from whimbrel.testing.tolerance import assert_as_good_as


def test_the_tolerance_is_twice_the_error_of_low_precision() -> None:
    exact = np.zeros(4)
    low = np.array([0, 0.5, 0, -1.0])
    assert_as_good_as(np.array([2.0, 0, 0, 0]), low, exact)
    with pytest.raises(
        AssertionError, match=r"error 2\.01 at \(2,\) .* more than 2 times the low-precision reference's 1"
    ):
        assert_as_good_as(np.array([0, 0, 2.01, 0]), low, exact)


@pytest.mark.parametrize("actual", [np.array([np.nan, 0]), np.array([np.inf, 0]), np.zeros(3), np.zeros((2, 1))])
def test_the_tolerance_refuses_holes_and_other_shapes(actual: Any) -> None:
    with pytest.raises(AssertionError):
        assert_as_good_as(actual, np.ones(2), torch.zeros(2))


def test_poison_fills_new_memory_and_is_taken_away_again() -> None:
    with poisoned_memory():
        assert np.isnan(np.empty((3, 2), np.float32)).all()
        assert np.isnan(np.empty_like(np.zeros(3))).all()
        assert (np.empty(3, np.int32) == np.iinfo(np.int32).min).all()
    assert np.empty.__module__ == "numpy"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_tiny_models_are_seeded_and_have_the_parameters_their_configuration_counts(family: str) -> None:
    config = tiny.config(family)
    weights = tiny.weights(config)
    assert sum(array.size for array in weights.values()) == config.num_parameters()
    assert all(array.dtype == np.float32 for array in weights.values())
    again, other = tiny.weights(config), tiny.weights(config, seed=1)
    assert all((weights[name] == again[name]).all() and (weights[name] != other[name]).any() for name in weights)
    assert not config.unknown_keys


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_tiny_parameters_take_any_conversion(family: str) -> None:
    config = tiny.config(family)
    params = tiny.params(config, matrix=lambda array: pack(array, "q4", 32), vector=torch.from_numpy)
    assert params.layers[1].down_proj.shape == (config.hidden_size, config.intermediate_size)
    assert (params.lm_head is params.embed_tokens) == config.tie_word_embeddings
    assert (params.layers[0].qkv_bias is not None) == (family == "qwen2")
    assert (params.layers[0].q_norm is not None) == (family == "qwen3")


def test_a_tiny_checkpoint_has_all_files(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "minicpm", num_hidden_layers=1)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1


def test_the_tiny_tokenizer_round_trips_any_text_and_knows_its_special_tokens() -> None:
    tokenizer = Tokenizer.from_str(tiny.tokenizer_json())
    for text in ("the shore is long", "naïve 鷸 🐦\n\t", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert [tokenizer.token_to_id(token) for token in tiny.SPECIAL_TOKENS] == list(range(5))
    assert len(tokenizer.encode("the north").ids) < 9
