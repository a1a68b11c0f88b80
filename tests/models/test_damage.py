"""Damaged checkpoints of every kind: one line that names the checkpoint, never a traceback of something else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whimbrel.errors import WhimbrelError
from whimbrel.formats.gguf import GGUFFile
from whimbrel.models.config import ModelConfig
from whimbrel.models.exporting import export_gguf
from whimbrel.models.loading import load_config, load_model, load_text_side
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.testing import tiny

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
QUICK = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ROPE_KEYS = (
    "rope_type", "factor", "short_factor", "long_factor", "original_max_position_embeddings", "attention_factor",
    "mscale", "low_freq_factor", "beta_fast", "rope_theta",
)  # fmt: skip


def one_line(error: WhimbrelError) -> None:
    assert "\n" not in str(error)
    assert str(error)


@given(
    family=st.sampled_from(tiny.FAMILIES),
    changes=st.dictionaries(
        st.sampled_from(
            [*tiny.hf_config("minicpm"), "attention_bias", "layer_types", "rope_parameters", "quantization_config",
             "use_sliding_window", "mlp_bias", "partial_rotary_factor"]
        ),
        ANYTHING, max_size=3,
    ),
)  # fmt: skip
@QUICK
def test_any_value_in_config_json(family: str, changes: dict[str, Any]) -> None:
    try:
        config = ModelConfig.from_hf({**tiny.hf_config(family), **changes})
        assert config.num_parameters() > 0
        json.dumps(config.to_hf())
    except WhimbrelError as error:
        one_line(error)


@given(
    rope=st.dictionaries(st.sampled_from(ROPE_KEYS), ANYTHING, max_size=5),
    kind=st.sampled_from(["default", "linear", "llama3", "yarn", "longrope"]),
)
@QUICK
def test_any_value_in_the_rotary_parameters(rope: dict[str, Any], kind: str) -> None:
    from whimbrel.models.rope import rope_table

    try:
        config = ModelConfig.from_hf(tiny.hf_config("llama", rope_scaling={"rope_type": kind, **rope}))
        table = rope_table(config, 20)
        assert table.cos.shape == (20, 32)
    except WhimbrelError as error:
        one_line(error)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a tiny llama."""
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("sound"), "llama", num_hidden_layers=1)
    return export_gguf(folder, folder / "sound.gguf", dtype="f16")


@pytest.fixture(scope="module", params=["llama", "minicpm"])
def metadata_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("metadata"), request.param)
    return dict(GGUFFile(export_gguf(folder, folder / "m.gguf")).metadata)


@given(data=st.data())
@QUICK
def test_any_value_in_gguf_metadata(metadata_of: dict[str, Any], data: st.DataObject) -> None:
    metadata = dict(metadata_of)
    for key in data.draw(st.lists(st.sampled_from(sorted(metadata)), max_size=3)):
        metadata[key] = data.draw(ANYTHING)
    for read in (ModelConfig.from_gguf, Tokenizer.from_gguf):
        try:
            read(metadata)
        except WhimbrelError as error:
            one_line(error)


@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.none() | st.floats(0, 1),
)
@QUICK
def test_any_bytes_in_a_gguf_file(
    tmp_path: Path, sound: Path, edits: list[tuple[float, int]], cut: float | None
) -> None:
    raw = bytearray(sound.read_bytes())
    head = GGUFFile(sound).tensors["token_embd.weight"].offset
    for at, byte in edits:
        raw[int(at * head)] = byte
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw[: None if cut is None else int(cut * len(raw))])
    try:
        load_model(path)
    except WhimbrelError as error:
        one_line(error)
        assert str(path) in str(error)


@given(
    name=st.sampled_from(["tokenizer_config.json", "generation_config.json", "config.json"]),
    content=ANYTHING | st.dictionaries(
        st.sampled_from(["bos_token", "eos_token", "chat_template", "added_tokens_decoder", "eos_token_id"]), ANYTHING
    ),
)  # fmt: skip
@QUICK
def test_any_value_in_the_side_files(tmp_path: Path, sound: Path, name: str, content: Any) -> None:
    folder = sound.parent
    side = tmp_path / "folder"
    side.mkdir(exist_ok=True)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (side / file).write_bytes((folder / file).read_bytes())
    (side / name).write_text(json.dumps(content))
    for read in (load_config, load_text_side):
        try:
            read(side)
        except WhimbrelError as error:
            one_line(error)
            assert str(side) in str(error)
