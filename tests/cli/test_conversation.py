"""The interactive chat: with scripted lines, and once on a real terminal; Ctrl-C everywhere."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from whimbrel.backends.llm import LLM
from whimbrel.cli.conversation import Conversation


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(checkpoint, context=512) as opened:
        yield opened


def talk(llm: LLM, *lines: str | type[BaseException], max_tokens: int | None = 4) -> Conversation:
    """Say the lines, then end the input. An exception type is raised in the place of a line."""
    left = iter([*lines, EOFError])

    def read() -> str:
        line = next(left)
        if isinstance(line, str):
            return line
        raise line

    sampling = {"max_tokens": max_tokens} if max_tokens else {"ignore_eos": True}
    conversation = Conversation(llm, system=None, sampling=sampling)
    conversation.run(read)
    return conversation


def roles(conversation: Conversation) -> Sequence[str]:
    return [message["role"] for message in conversation.chat.messages]


def test_turns_keep_the_cache(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = talk(llm, "hello there, how are you doing on this fine and long day of the year?", "", "  ", "again")
    assert roles(conversation) == ["user", "assistant"] * 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "from the cache" in last and "wrote" in last


def test_commands(llm: LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kept.json"
    talk(llm, "/help", "hello", f"/save {file}", "/quit", "never said")
    err = capsys.readouterr().err
    assert "/load FILE" in err and "saved 2 messages" in err
    assert len(json.loads(file.read_text())["messages"]) == 2
    loaded = talk(llm, f"/load {file}", "and more")
    assert roles(loaded) == ["user", "assistant"] * 2
    assert roles(talk(llm, f"/load {file}", "/undo")) == []
    assert roles(talk(llm, "hello", "/new")) == []


def test_a_kv_file_has_what_was_read_too(llm: LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kept.kv"
    said = "hello there, how are you doing on this fine and long day of the year? " * 2
    talk(llm, said, f"/save {file}")
    assert " tokens as they were read" in capsys.readouterr().err
    assert roles(talk(llm, f"/load {file}", "and more")) == ["user", "assistant"] * 2
    err = capsys.readouterr().err
    assert "2 messages from" in err and "aren't read again" in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/nonsense", "there is no /nonsense"),
        ("/save", "needs the name of a file"),
        ("/save /proc/nope/x", "can't be written"),
        ("/save /proc/nope/x.kv", "can't be written"),
        ("/load {session}", "is no conversation"),
        ("/load /absent", "can't be read"),
        ("/load {damaged}", "no saved conversation"),
        ("/load {other}", "no saved conversation"),
        ("/undo", "nothing to take back"),
    ],
)
def test_mistakes_lose_nothing(
    llm: LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    (tmp_path / "damaged").write_text("{")
    (tmp_path / "other").write_text("[1]")
    llm.session().save_to(tmp_path / "session.kv")
    os.truncate(tmp_path / "session.kv", 5000)
    files = {name: tmp_path / name for name in ("damaged", "other")}
    prepared = line.format(**files, session=tmp_path / "session.kv")
    before = [] if line == "/undo" else ["hello"]
    assert len(roles(talk(llm, *before, prepared))) == 2 * len(before)
    assert says in capsys.readouterr().err


def test_a_conversation_that_is_too_long_goes_on_after_new(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = talk(llm, "word " * 400, "/new", "hello")
    assert "the context holds 512" in capsys.readouterr().err
    assert roles(conversation) == ["user", "assistant"]


def test_control_c_at_the_prompt_only_drops_the_line(llm: LLM) -> None:
    assert roles(talk(llm, KeyboardInterrupt, "hello")) == ["user", "assistant"]


def test_control_c_stops_the_answer_and_keeps_what_was_said(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from whimbrel.cli import terminal

    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(terminal, "write", write)
    conversation = talk(llm, "hello", "/help", max_tokens=None)
    assert roles(conversation) == ["user", "assistant"]
    assert "(stopped)" in capsys.readouterr().err
    assert conversation.chat.messages[1]["content"]


def wait_for(terminal: int, text: bytes, seconds: float = 60) -> bytes:
    """Read from a pseudo-terminal until ``text`` has come."""
    seen, end = b"", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096)
    return seen


def test_on_a_terminal(model: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "whimbrel", "run", "-m", model, "-n", "600", "--session", str(tmp_path / "talk")]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        wait_for(ours, b"Ctrl-D leaves")
        wait_for(ours, b"\x1b[?2004h")  # the prompt takes input
        os.write(ours, b"hello\r")
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)  # stops the answer, or, if it is already complete, nothing
        os.write(ours, b"/help\r")
        wait_for(ours, b"take the last question")
        os.write(ours, b"/quit\r")
        wait_for(ours, b"saved 2 messages")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "hello" in (tmp_path / "state" / "whimbrel" / "history").read_text()


def test_a_session_goes_on_in_the_next_run(call: Callable[..., Any], model: str, tmp_path: Path) -> None:
    file, said = tmp_path / "talk", "hello there, how are you doing on this fine and long day of the year? " * 2
    first = call("run", "-m", model, "-n", 8, "--system", "Be brief.", "--session", file, said)
    assert first.exit_code == 0 and "saved 3 messages" in first.stderr
    second = call("run", "-n", 8, "--session", file, "--json", "and more")  # its model, and its settings
    answer = json.loads(second.stdout)
    assert "3 messages" in second.stderr and "saved 5 messages" in second.stderr
    assert answer["usage"]["cached_tokens"] >= 64
    before = file.read_bytes()
    for wrong, says in {
        ("--system", "Another."): "began with the system message 'Be brief.'",
        ("--raw",): "leave one of them out",
        ("-c", "64"): "the context holds 64",
    }.items():
        refused = call("run", "-n", 8, "--session", file, *wrong, "and more")
        assert refused.exit_code == 2 and says in refused.stderr
        assert file.read_bytes() == before


ENDLESS = """
from whimbrel.backends.llm import LLM
from whimbrel.cli.main import main
params = LLM.sampling_params
LLM.sampling_params = lambda self, **sampling: params(self, **{**sampling, "ignore_eos": True})
main()
"""
"""The program, with a model that never ends an answer by itself."""


def test_control_c_in_a_one_shot_answer(model: str) -> None:
    command = [sys.executable, "-c", ENDLESS, "run", "-m", model, "-n", "1900", "hello"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors and errors.endswith(b"whimbrel: interrupted\n")
