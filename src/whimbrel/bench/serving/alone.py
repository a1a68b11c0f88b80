"""The engine without a server: the same prompts, as many sequences side by side, no HTTP and no text.

    python -m whimbrel.bench.serving.alone MODEL [--context N] [--max-sequences N]

Each line of standard input is ``{"prompts": [[ids], ...], "max_tokens": n}``; each line of standard output says how
long reading and writing took. This is what the server's overhead per token is counted from.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from whimbrel.errors import WhimbrelError


@dataclass(frozen=True, kw_only=True, slots=True)
class Alone:
    """One run: seconds until the first token of the last sequence, and from there to the end of all."""

    prefill: float
    decode: float
    tokens: int
    """of all sequences, the first ones included"""


class RemoteEngine:
    """The engine in a process of its own, so that it has its threads and its memory for itself. A context manager."""

    def __init__(self, model: Path, *, context: int, max_sequences: int) -> None:
        """Starts the process and loads the model. Raises ``WhimbrelError``."""
        command = [sys.executable, "-m", "whimbrel.bench.serving.alone", str(model)]
        command += ["--context", str(context), "--max-sequences", str(max_sequences)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Alone:
        """All prompts side by side, greedy, each to its ``max_tokens``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "max_tokens": max_tokens}) + "\n")
        self._process.stdin.flush()
        return Alone(**self._answer())

    def close(self) -> None:
        """End the process. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        self.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WhimbrelError(f"the engine's process ended with code {self._process.wait()}; see its words above")
        return json.loads(line)


def run(engine: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> dict[str, float | int]:
    """The fields of ``Alone`` for these prompts."""
    from whimbrel.engine.request import Request, SamplingParams

    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    start = time.perf_counter()
    waiting = {engine.add(Request(token_ids=tuple(prompt), params=params)) for prompt in prompts}
    first, tokens = start, 0
    while outputs := engine.step():
        for output in outputs:
            if output.error is not None:
                raise output.error
            tokens += len(output.token_ids)
            if output.token_ids and output.request_id in waiting:
                waiting.discard(output.request_id)
                first = time.perf_counter()
    return {"prefill": first - start, "decode": time.perf_counter() - first, "tokens": tokens}


def main() -> None:
    """Answer lines until there are no more."""
    from whimbrel.backends.native import NativeExecutor
    from whimbrel.backends.open import open_model

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--max-sequences", type=int, default=16)
    options = parser.parse_args()
    opened = open_model(options.model, context=options.context, max_sequences=options.max_sequences)
    executor = opened.executor
    assert isinstance(executor, NativeExecutor)
    print(json.dumps({}), flush=True)
    with executor.exclusive() as engine:
        for line in sys.stdin:
            print(json.dumps(run(engine, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
