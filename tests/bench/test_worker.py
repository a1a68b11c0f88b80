"""A side in another process: its errors arrive as ours, its death as one line."""

import io
import json
import os
import signal
from pathlib import Path

import pytest

from whimbrel.bench import worker
from whimbrel.bench.worker import LLAMA_CPP, WHIMBREL, RemoteSide, serve
from whimbrel.errors import ModelNotFound, WhimbrelError


def test_errors_keep_their_class(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        RemoteSide(WHIMBREL, {"path": str(tmp_path / "missing.gguf"), "max_context": 64})


def test_a_killed_worker_is_named_with_its_signal(tmp_path: Path) -> None:
    pytest.importorskip("whimbrel._native")
    from whimbrel.testing.tiny import write_checkpoint

    path = write_checkpoint(tmp_path / "tiny")
    with RemoteSide(WHIMBREL, {"path": str(path), "max_context": 64, "threads": 1}) as side:
        assert side.settings == ("dense", "sparse")
        assert side.greedy([5, 6, 7], 3) == side.greedy([5, 6, 7], 3)
        os.kill(side._process.pid, signal.SIGKILL)
        with pytest.raises(WhimbrelError, match="the whimbrel side was killed by SIGKILL"):
            side.describe()


def test_a_crash_of_the_peer_says_how_to_compile_it() -> None:
    assert "peer_build" in worker._obituary(LLAMA_CPP, -signal.SIGSEGV)
    assert "peer_build" not in worker._obituary(LLAMA_CPP, -signal.SIGKILL)
    assert worker._obituary(WHIMBREL, 3) == "the whimbrel side ended with code 3 and no message"


def test_an_unknown_failure_is_an_answer_too() -> None:
    answers = io.StringIO()
    serve({"side": WHIMBREL, "options": {"nonsense": 1}}, io.StringIO(), answers)
    assert json.loads(answers.getvalue())["error"]["type"] == "TypeError"
