"""The interactive chat of ``whimbrel run``: lines in, answers out, a few commands that begin with a slash."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.cli import terminal
from whimbrel.cli.answer import checked_text, last_line, show_stream
from whimbrel.cli.session import turn_tokens
from whimbrel.errors import FormatError, UsageError, WhimbrelError

if TYPE_CHECKING:
    from whimbrel.backends.chat import Chat
    from whimbrel.backends.llm import LLM

Reader = Callable[[], str]
"""The next line; raises EOFError at the end, KeyboardInterrupt on Ctrl-C."""

HELP = """\
/help         this list
/save FILE    keep the conversation; in a FILE.kv with what the model has read, which it needn't read again then
/load FILE    go on with one that was kept
/undo         take the last question and its answer back
/new          start again
/quit         leave (as Ctrl-D does)
Ctrl-C stops an answer. Everything else is said to the model."""


class Conversation:
    """A chat with one model until the person leaves."""

    def __init__(
        self, llm: "LLM", *, system: str | None, sampling: Mapping[str, Any], chat: "Chat | None" = None
    ) -> None:
        """``sampling``: options of every answer; ``max_tokens`` among them if it was given. ``chat``: to go on with."""
        self._llm = llm
        self._system = system
        self._max_tokens = sampling.get("max_tokens")
        self._sampling = {key: value for key, value in sampling.items() if key != "max_tokens"}
        self.chat = llm.session(system=system) if chat is None else chat

    def run(self, read: Reader) -> None:
        """Talk until ``read`` raises EOFError or ``/quit``. Errors are shown in one line; nothing said is lost."""
        terminal.note(f"{Path(self._llm.source).name}, {self._llm.context:,} tokens of context; /help, Ctrl-D leaves")
        for line in _lines(read):
            try:
                if line.startswith("/"):
                    self._command(line)
                else:
                    self._say(line)
            except WhimbrelError as error:
                terminal.note(f"whimbrel: {error}")
            except KeyboardInterrupt:
                terminal.note("(stopped)")
            if line.split()[0] == "/quit":
                return

    def _say(self, line: str) -> None:
        stream = self.chat.stream(checked_text(line, "the message"), **self._options(line))
        terminal.note(last_line(show_stream(stream, 0)))

    def _options(self, line: str) -> dict[str, Any]:
        return {**self._sampling, "max_tokens": turn_tokens(self.chat, line, self._max_tokens)}

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: terminal.note(HELP),
            "/save": self._save,
            "/load": self._load,
            "/undo": self._undo,
            "/new": self._new,
            "/quit": lambda _: None,
        }
        if name not in commands:
            raise UsageError(f"there is no {name}; /help lists the commands")
        commands[name](argument.strip())

    def _save(self, file: str) -> None:
        from whimbrel.zoo.store import write_atomically

        path = _path(file, "/save")
        if path.suffix == ".kv":
            tokens = self.chat.save_to(path)
            terminal.note(f"saved {len(self.chat.messages)} messages to {path}, {tokens:,} tokens as they were read")
            return
        try:
            write_atomically(path, json.dumps(self.chat.save(), ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise UsageError(
                f"{path} can't be written: {error.strerror}; nothing was saved, try another place"
            ) from error
        terminal.note(f"saved {len(self.chat.messages)} messages to {path}")

    def _load(self, file: str) -> None:
        from whimbrel.formats.kv_file import is_kv_file

        path = _path(file, "/load")
        if is_kv_file(path):
            tokens = self.chat.load_from(path)
            terminal.note(f"loaded {len(self.chat.messages)} messages from {path}; {tokens:,} tokens aren't read again")
            return
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path} can't be read: {error.strerror}; the conversation is unchanged") from error
        except ValueError as error:
            raise FormatError(f"{path} is no saved conversation ({error}); the conversation is unchanged") from error
        self.chat.load(saved)
        terminal.note(f"loaded {len(self.chat.messages)} messages from {path}")

    def _undo(self, _: str) -> None:
        said = self.chat.undo()
        terminal.note("there is nothing to take back" if said is None else f"taken back: {said}")

    def _new(self, _: str) -> None:
        self.chat = self._llm.session(system=self._system)
        terminal.note("a new conversation")


def terminal_reader() -> Reader:
    """Lines from the person, with editing and a history that is kept between runs."""
    from platformdirs import user_state_path
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    history: History
    try:
        folder = user_state_path("whimbrel", appauthor=False, ensure_exists=True)
        (folder / "history").touch(mode=0o600)
        history = FileHistory(str(folder / "history"))
    except OSError as error:
        terminal.note(f"the history is not kept: {error}")
        history = InMemoryHistory()
    session: PromptSession[str] = PromptSession(history=history)
    return lambda: session.prompt("> ")


def _lines(read: Reader) -> Iterator[str]:
    """Lines that aren't empty, until the end; Ctrl-C only drops the line that was being written."""
    while True:
        try:
            line = read().strip()
        except KeyboardInterrupt:
            terminal.note("(/quit or Ctrl-D leaves)")
            continue
        except EOFError:
            return
        if line:
            yield line


def _path(file: str, command: str) -> Path:
    if not file:
        raise UsageError(f"{command} needs the name of a file")
    return Path(file).expanduser()
