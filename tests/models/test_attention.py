"""Dense or sparse: the mark, what is asked, and what is said about it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import InvalidParameter
from whimbrel.models.attention import with_attention
from whimbrel.models.exporting import export_gguf
from whimbrel.models.loading import load_config
from whimbrel.models.presets import preset
from whimbrel.testing import tiny

MARK = SparseConfig(topk=3, window_size=64, dense_len=128)
PLAIN = tiny.config("llama")
MARKED = replace(PLAIN, sparse=MARK)
MINICPM4 = replace(preset("minicpm4-8b"), sparse=None)


def test_auto_follows_the_mark_and_nothing_else() -> None:
    assert with_attention(PLAIN) == (PLAIN, None)
    config, notice = with_attention(MARKED)
    assert config.sparse == MARK and notice and not notice.warning and "4 blocks of 64" in notice.text
    config, notice = with_attention(MINICPM4)
    assert config.sparse is None and notice and not notice.warning and "attention='sparse'" in notice.text


def test_dense_drops_the_mark_and_says_so() -> None:
    assert with_attention(PLAIN, "dense") == (PLAIN, None)
    config, notice = with_attention(MARKED, "dense")
    assert config.sparse is None and notice and not notice.warning and "marked for sparse" in notice.text


def test_sparse_without_a_mark_takes_the_published_constants_and_warns() -> None:
    config, notice = with_attention(PLAIN, "sparse")
    assert config.sparse == SparseConfig()
    assert notice and notice.warning and "not trained" in notice.text


def test_models_that_are_trained_for_it_are_not_warned_about() -> None:
    for config in (MARKED, MINICPM4, preset("minicpm4.1-8b")):
        asked, notice = with_attention(config, "sparse")
        assert asked.sparse == (config.sparse or SparseConfig()) and notice and not notice.warning
    # an earlier MiniCPM has the same model_type and plain rotary embeddings
    early = replace(MINICPM4, rope=PLAIN.rope)
    assert with_attention(early, "sparse")[1].warning  # type: ignore[union-attr]
    assert with_attention(early) == (early, None)


def test_constants_change_those_of_the_mark_and_ask_by_themselves() -> None:
    config, notice = with_attention(MARKED, constants={"topk": 5})
    assert config.sparse == replace(MARK, topk=5) and notice and "configuration says" in notice.text
    assert with_attention(PLAIN, constants={"topk": 5})[0].sparse == SparseConfig(topk=5)
    assert with_attention(PLAIN, "sparse", MARK)[0].sparse == MARK


@pytest.mark.parametrize(("attention", "constants", "says"), [
    ("spares", None, "auto, dense, sparse"),
    ("dense", {"topk": 3}, "takes no sparse constants"),
    ("sparse", {"window": 3}, "window is unknown; there are .*window_size"),
    ("sparse", {"window_size": 100}, "sparse: window_size 100 is no multiple"),
    ("auto", {"topk": "many"}, "sparse: topk is 'many'"),
])  # fmt: skip
def test_what_cannot_be_is_refused(attention: str, constants: dict[str, Any] | None, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        with_attention(PLAIN, attention, constants)


def test_a_gguf_file_keeps_the_mark(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "marked", "minicpm", sparse_config={**MARK.to_hf(), "dense_len": -1})
    config = load_config(export_gguf(folder, tmp_path / "marked.gguf"))
    assert config.sparse == replace(MARK, dense_len=-1) == load_config(folder).sparse
    assert not config.unknown_keys
