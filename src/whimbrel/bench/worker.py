"""One side of a comparison in a process of its own, spoken to in lines of JSON.

Each side gets all of its threads, its memory and its crashes for itself: a library that was compiled for another
processor kills its worker, not the benchmark. While one side works the other waits in a read and uses no core.

    python -m whimbrel.bench.worker '{"side": "whimbrel", "options": {...}}'

Each line of standard input is ``[method, arguments]``; each line of standard output ``{"value": ...}`` or
``{"error": {"type", "message"}}``. The first line answers the loading.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from whimbrel import errors
from whimbrel.bench.side import Scores, Side, Timing
from whimbrel.errors import WhimbrelError

WHIMBREL, LLAMA_CPP = "whimbrel", "llama.cpp"


class RemoteSide:
    """A ``Side`` in another process. Errors there are raised here, with their class if it is one of ours."""

    def __init__(self, name: str, options: Mapping[str, object]) -> None:
        """Start the process and load the model; raises what loading raises."""
        self.name = name
        job = json.dumps({"side": name, "options": dict(options)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "whimbrel.bench.worker", job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.settings: tuple[str, ...] = tuple(self._answer())

    def describe(self) -> Mapping[str, object]:
        """See ``Side.describe``."""
        description: Mapping[str, object] = self._call("describe")
        return description

    def warm_up(self, setting: str) -> None:
        """See ``Side.warm_up``."""
        self._call("warm_up", setting)

    def measure(self, setting: str, prompt: Sequence[int], decode: int) -> Timing:
        """See ``Side.measure``."""
        return Timing(**self._call("measure", setting, list(prompt), decode))

    def measure_at(self, setting: str, depth: int, chunk: int, decode: int) -> Timing:
        """See ``Side.measure_at``."""
        return Timing(**self._call("measure_at", setting, depth, chunk, decode))

    def tokenize(self, text: str) -> list[int]:
        """See ``Side.tokenize``."""
        ids: list[int] = self._call("tokenize", text)
        return ids

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """See ``Side.greedy``."""
        tokens: list[int] = self._call("greedy", list(prompt), count)
        return tokens

    def score(self, token_ids: Sequence[int], first: int, top: int) -> Scores:
        """See ``Side.score``."""
        found = self._call("score", list(token_ids), first, top)
        top_of_all = tuple(tuple((token, logprob) for token, logprob in row) for row in found["top"])
        return Scores(logprobs=tuple(found["logprobs"]), top=top_of_all)

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of a long prompt
        self.close()

    def _call(self, method: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # the answer says how it ended
                self._process.stdin.write(json.dumps([method, arguments]) + "\n")
                self._process.stdin.flush()
            return self._answer()
        except BaseException:
            self._process.kill()  # or the next call would read this one's answer
            raise

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WhimbrelError(_obituary(self.name, self._process.wait()))
        answer = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"]["type"], WhimbrelError)
            raise kind(answer["error"]["message"])
        return answer["value"]


def serve(job: Mapping[str, Any], requests: TextIO, answers: TextIO) -> None:
    """Load a side, then answer requests until there are no more; an error ends it."""
    try:
        side = _load(job["side"], job["options"])
        _send(answers, {"value": side.settings})
        for line in requests:
            method, arguments = json.loads(line)
            value = getattr(side, method)(*arguments)
            _send(answers, {"value": asdict(value) if isinstance(value, Timing | Scores) else value})
        side.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process has to hear of it
        _send(answers, {"error": {"type": type(error).__name__, "message": str(error) or repr(error)}})


def _load(name: str, options: Mapping[str, Any]) -> Side:
    """The side of that name; each imports only what it needs."""
    paths = {key: Path(value) for key, value in options.items() if key in ("path", "cache_folder")}
    module, kind = {
        WHIMBREL: ("whimbrel.bench.engine", "EngineSide"),
        LLAMA_CPP: ("whimbrel.bench.peer", "LlamaCppSide"),
    }[name]
    side: Side = getattr(import_module(module), kind)(**{**options, **paths})
    return side


def _send(answers: TextIO, message: Mapping[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _obituary(name: str, code: int) -> str:
    """Why a worker has gone without a word."""
    if code >= 0:
        return f"the {name} side ended with code {code} and no message"
    text = f"the {name} side was killed by {signal.Signals(-code).name}"
    if name == LLAMA_CPP and -code in (signal.SIGSEGV, signal.SIGILL):
        text += "; this build doesn't run on this processor: run `python -m whimbrel.bench.peer_build` to compile one"
    return text


if __name__ == "__main__":
    # Libraries print to standard output as they like; the answers keep the real one.
    with os.fdopen(os.dup(1), "w") as _answers:
        os.dup2(2, 1)
        serve(json.loads(sys.argv[1]), sys.stdin, _answers)
