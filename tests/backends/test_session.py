"""Conversations on the disk: gone on with without reading, whatever stopped the saving, and what is refused."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from whimbrel.backends.chat import Chat
from whimbrel.backends.llm import LLM
from whimbrel.backends.session import session_settings
from whimbrel.errors import FormatError, UsageError, WriteError
from whimbrel.formats.kv_file import KVFile
from whimbrel.formats.kv_writer import part_of
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))

OPTIONS: dict[str, Any] = {"context": 1024, "threads": 1}
ANSWER = {"max_tokens": 24, "ignore_eos": True}
AGAIN = "And what does it eat in the winter?"


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(checkpoint, **OPTIONS) as model:
        yield model


def talked(llm: LLM, turns: int = 2, **options: Any) -> Chat:
    """A conversation of a few hundred tokens."""
    chat = llm.session(**options)
    for turn in range(turns):
        chat.send(f"{turn}: {tiny.TEXT}", **ANSWER)
    return chat


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
def test_it_goes_on_tomorrow_without_reading(checkpoint: Path, tmp_path: Path, kv_dtype: str) -> None:
    file = tmp_path / "talk.kv"
    options = {**OPTIONS, "kv_dtype": kv_dtype}
    with LLM(checkpoint, **options) as today:
        chat = talked(today, system="Be brief.", template={"enable_thinking": False})
        tokens = chat.save_to(file)
        whole = (len(chat.token_ids) - 1) // 64 * 64  # the last token is written, and not yet read
        assert tokens == whole and tokens > 128
        expected = chat.send(AGAIN, **ANSWER)
        with today.executor.exclusive() as engine:  # type: ignore[attr-defined]
            engine.audit()
    with LLM(checkpoint, **options) as tomorrow:
        again = tomorrow.session_from(file)
        assert (again.messages, again.token_ids) == (
            chat.messages[:-2],
            expected.prompt_token_ids[: len(again.token_ids)],
        )
        answer = again.send(AGAIN, **ANSWER)
        assert again.save()["template"] == {"enable_thinking": False}
    assert answer.usage.cached_tokens == tokens
    assert answer.token_ids == expected.token_ids and answer.prompt_token_ids == expected.prompt_token_ids


def test_sparse_attention_goes_on_as_well(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "minicpm", "minicpm")
    options = {**OPTIONS, "attention": "sparse", "sparse": {"topk": 4, "window_size": 64, "dense_len": 128}}
    with LLM(checkpoint, **options) as today:
        chat = talked(today, 3)
        tokens = chat.save_to(tmp_path / "talk.kv")
        expected = chat.send(AGAIN, **ANSWER)
    with LLM(checkpoint, **session_settings(tmp_path / "talk.kv")[1], threads=1) as tomorrow:
        answer = tomorrow.session_from(tmp_path / "talk.kv").send(AGAIN, **ANSWER)
    assert answer.usage.cached_tokens == tokens and answer.token_ids == expected.token_ids


def test_undo_goes_back_beyond_the_saving(llm: LLM, tmp_path: Path) -> None:
    chat = talked(llm)
    chat.save_to(tmp_path / "talk.kv")
    again = llm.session_from(tmp_path / "talk.kv")
    assert again.undo() == chat.undo() and again.token_ids == chat.token_ids and len(again.messages) == 2


def test_an_empty_conversation_is_one(llm: LLM, tmp_path: Path) -> None:
    assert llm.session(system="Be brief.").save_to(tmp_path / "talk.kv") == 0
    again = llm.session_from(tmp_path / "talk.kv")
    assert again.messages == [{"role": "system", "content": "Be brief."}] and again.token_ids == ()


def test_what_the_cache_has_dropped_is_read_again(checkpoint: Path, tmp_path: Path) -> None:
    with LLM(checkpoint, **OPTIONS) as llm:  # one context and a spare block
        chat = talked(llm)
        llm.generate([5] * 960, max_tokens=1)
        assert chat.save_to(tmp_path / "talk.kv") < len(chat.token_ids) // 64 * 64
        again = llm.session_from(tmp_path / "talk.kv")
        assert again.token_ids == chat.token_ids
        assert again.send(AGAIN, **ANSWER).token_ids == chat.send(AGAIN, **ANSWER).token_ids


def test_a_backend_without_blocks_keeps_what_was_said(scripted: Callable[..., LLM], tmp_path: Path) -> None:
    llm = scripted("first", "second")
    chat = llm.session()
    chat.send("hello")
    assert chat.save_to(tmp_path / "talk.kv") == 0
    again = llm.session_from(tmp_path / "talk.kv")
    assert (again.messages, again.token_ids) == (chat.messages, chat.token_ids)
    assert again.send("and?").text == "second"


def test_another_model_takes_the_messages(
    llm: LLM, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = talked(llm)
    chat.save_to(tmp_path / "talk.kv")
    other = tiny.write_checkpoint(tmp_path / "other", "llama", seed=1)
    with caplog.at_level(logging.WARNING), LLM(other, **OPTIONS) as another:
        again = another.session()
        assert again.load_from(tmp_path / "talk.kv") == 0
        assert again.messages == chat.messages and again.token_ids == ()
        assert again.send(AGAIN, **ANSWER).usage.cached_tokens == 0
    assert "saved with another model" in caplog.text


def test_other_settings_take_the_ids_too(
    llm: LLM, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = talked(llm)
    chat.save_to(tmp_path / "talk.kv")
    with caplog.at_level(logging.WARNING), LLM(checkpoint, **OPTIONS, kv_dtype="q8") as another:
        again = another.session()
        assert again.load_from(tmp_path / "talk.kv") == 0
        assert again.token_ids == chat.token_ids
    assert "kv_dtype bf16, not q8" in caplog.text


def test_the_file_says_which_model_and_settings(llm: LLM, checkpoint: Path, tmp_path: Path) -> None:
    talked(llm).save_to(tmp_path / "talk.kv")
    model, options = session_settings(tmp_path / "talk.kv")
    assert model == str(checkpoint) and options == {"attention": "dense", "context": 1024, "kv_dtype": "bf16"}


# --- whatever stops the saving


KILLED = """
import os, signal, sys
from whimbrel.backends.llm import LLM
from whimbrel.formats.kv_writer import KVWriter
append = KVWriter.append
def stop(self, *parts):
    append(self, *parts)
    if self.written == 3:
        os.kill(os.getpid(), signal.SIGKILL)
KVWriter.append = stop
chat = LLM(sys.argv[1], context=1024, threads=1).session_from(sys.argv[2])
chat.send("More. " * 40, max_tokens=8)
chat.save_to(sys.argv[2])
"""

FULL = """
import resource, signal, sys
from whimbrel.backends.llm import LLM
chat = LLM(sys.argv[1], context=1024, threads=1).session_from(sys.argv[2])
chat.send("More. " * 40, max_tokens=8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    chat.save_to(sys.argv[2])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def run(program: str, llm: LLM, file: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, llm.source, str(file)]
    return subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)


def test_a_killed_saving_leaves_the_older_file(llm: LLM, tmp_path: Path) -> None:
    file = tmp_path / "talk.kv"
    chat = talked(llm)
    chat.save_to(file)
    before = file.read_bytes()
    assert run(KILLED, llm, file).returncode == -signal.SIGKILL
    assert file.read_bytes() == before and part_of(file).exists()
    again = llm.session_from(file)
    assert again.messages == chat.messages
    again.send(AGAIN, **ANSWER)
    again.save_to(file)  # in place of what was left
    assert not part_of(file).exists() and llm.session_from(file).messages == again.messages


def test_a_full_disk_is_one_line_and_leaves_the_older_file(llm: LLM, tmp_path: Path) -> None:
    file = tmp_path / "talk.kv"
    talked(llm).save_to(file)
    before = file.read_bytes()
    said = run(FULL, llm, file).stderr
    assert (
        said.startswith(f"WriteError: {file} was not saved: the disk is full; an older file") and said.count("\n") == 1
    )
    assert file.read_bytes() == before and not part_of(file).exists()


def test_a_disk_without_room_is_not_begun_to_fill(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(WriteError, match="nothing was saved"):
        talked(llm).save_to(tmp_path / "talk.kv")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_in_the_middle_keeps_nothing_half(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def failing(file: int, data: Any, at: int) -> int:
        if at > 100_000:
            raise OSError(errno.EIO, "Input/output error")
        return write(file, data, at)

    chat = talked(llm)
    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(WriteError, match="was not saved"):
        chat.save_to(tmp_path / "talk.kv")
    assert not list(tmp_path.iterdir())
    with llm.executor.exclusive() as engine:  # type: ignore[attr-defined]
        engine.audit()  # its blocks are let go of


def test_there_must_be_a_folder(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        llm.session().save_to(tmp_path / "absent" / "talk.kv")


# --- what is refused


@pytest.fixture
def saved(llm: LLM, tmp_path: Path) -> Path:
    talked(llm).save_to(tmp_path / "talk.kv")
    return tmp_path / "talk.kv"


def refused(llm: LLM, file: Path, words: str) -> None:
    """Loading fails in one line, and changes nothing."""
    chat = llm.session(system="Before.")
    with pytest.raises(FormatError, match=words) as raised:
        chat.load_from(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value) and "whimbrel read" not in str(raised.value)
    assert [message["content"] for message in chat.messages] == ["Before."]


@pytest.mark.parametrize("size", [0, 20, 4096, 5000, 200_000])
def test_a_truncated_file(llm: LLM, saved: Path, size: int) -> None:
    os.truncate(saved, size)
    refused(llm, saved, "is no conversation")


def test_every_byte_of_the_blocks_is_checked(llm: LLM, saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    file = KVFile(saved)
    index = file.layout.num_blocks * file.layout.block_bytes * 2 // 3
    data[len(data) - len(file.data) + index] ^= 1
    saved.write_bytes(data)
    refused(llm, saved, r"block \d of \d has another checksum")


def test_other_files(llm: LLM, tmp_path: Path, saved: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        llm.session_from(tmp_path / "absent.kv")
    text = tmp_path / "talk.json"
    text.write_text(json.dumps(llm.session().save()))
    refused(llm, text, "/load takes those in JSON")
    (tmp_path / "birds.txt").write_text(tiny.TEXT)
    document = llm.read_document(tmp_path / "birds.txt").path
    with pytest.raises(FormatError, match="is a document and no conversation"):
        llm.session_from(document)
    with pytest.raises(FormatError, match="is a conversation and no document"):
        llm.open_document(saved)
