"""Opening a model dense or sparse, and beyond its training: what runs, what is logged, what the result carries."""

import logging
from pathlib import Path

import pytest

from whimbrel.attention.sparse import SparseConfig
from whimbrel.backends.llm import LLM
from whimbrel.errors import InvalidParameter, UnsupportedModel
from whimbrel.testing import tiny

MARK = SparseConfig(topk=3, window_size=64, dense_len=128)
PROMPT = list(range(5, 305))


def opened(path: Path, **options: object) -> LLM:
    return LLM(path, **{"ops": "reference", "kv_dtype": "f32", "context": 512, **options})


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose config.json has a sparse_config."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("marked"), "llama", sparse_config=MARK.to_hf())


def test_a_mark_is_followed(marked: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "whimbrel"), opened(marked) as llm:
        found = llm.generate(PROMPT, max_tokens=3, ignore_eos=True)
        assert llm.capabilities.sparse == MARK and not llm.capabilities.warnings
    assert "sparse from 257 tokens on" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 0 < found.usage.prompt_keys.sparsity < found.usage.completion_keys.sparsity < 0.25


def test_dense_is_dense(marked: Path, checkpoint: Path) -> None:
    with opened(marked, attention="dense") as llm, opened(checkpoint) as plain:
        found, wanted = (one.generate(PROMPT, max_tokens=3, ignore_eos=True) for one in (llm, plain))
    assert llm.capabilities.sparse is None and plain.capabilities.sparse is None
    assert found.token_ids == wanted.token_ids and found.usage.completion_keys.sparsity == 0


def test_sparse_without_a_mark_warns_in_the_log_and_the_capabilities(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(checkpoint, attention="sparse") as llm:
        assert llm.capabilities.sparse == SparseConfig()
        (warning,) = llm.capabilities.warnings
    assert "not trained for it" in warning
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [warning]


def test_constants_by_name(checkpoint: Path) -> None:
    with opened(checkpoint, sparse={"topk": 3, "window_size": 64, "dense_len": 128}) as llm:
        assert llm.capabilities.sparse == MARK
    with pytest.raises(InvalidParameter, match="there are .*topk"):
        opened(checkpoint, sparse={"top_k": 3})
    with pytest.raises(InvalidParameter, match="auto, dense, sparse"):
        opened(checkpoint, attention="both")


def test_kernels_that_the_cache_has_no_place_for(checkpoint: Path) -> None:
    with pytest.raises(UnsupportedModel, match="kernels of 16 tokens, 8 apart"):
        opened(checkpoint, sparse={"kernel_size": 16, "kernel_stride": 8})


def test_a_longer_context_is_stretched_with_a_warning(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(checkpoint, context=2048) as llm:
        assert llm.context == 2048 and llm.trained_context == 1024
        assert llm.config and llm.config.rope.kind == "yarn" and llm.config.rope.factor == 2
        (warning,) = llm.capabilities.warnings
    assert "beyond the 1,024" in warning
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [warning]
    with opened(checkpoint, context=1024) as llm:
        assert llm.config and llm.config.rope.kind == "default" and not llm.capabilities.warnings
