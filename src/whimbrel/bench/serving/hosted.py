"""The server and its engine in one process: asked over HTTP, or the engine by itself, with the same memory and threads.

    python -m whimbrel.bench.serving.hosted MODEL [--context N] [--max-sequences N]

The first line of standard output is ``{"port": n}``. Then each line of standard input is
``{"prompts": [[ids], ...], "max_tokens": n}``, which the engine computes without server, HTTP and text, and each line of
standard output says how long reading and writing took. This is what the server's overhead per token is counted from. In
two processes it drowned: one is up to 15% faster than the next for as long as it lives, by where its memory happens to lie.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from whimbrel.errors import WhimbrelError


@dataclass(frozen=True, kw_only=True, slots=True)
class Alone:
    """One run of the engine: seconds until the first token of the last sequence, and from there to the end of all."""

    prefill: float
    decode: float
    tokens: int
    """of all sequences, the first ones included"""


class Hosted:
    """A server on loopback whose engine can be used by itself while nobody asks. A context manager."""

    def __init__(self, model: Path, *, context: int, max_sequences: int) -> None:
        """Starts the process and waits until the model is loaded. Raises ``WhimbrelError``."""
        command = [sys.executable, "-m", "whimbrel.bench.serving.hosted", str(model)]
        command += ["--context", str(context), "--max-sequences", str(max_sequences)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port: int = self._answer()["port"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Alone:
        """The engine by itself: all prompts side by side, greedy, each to its ``max_tokens``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "max_tokens": max_tokens}) + "\n")
        self._process.stdin.flush()
        return Alone(**self._answer())

    def close(self) -> None:
        """End the process. Idempotent."""
        self._process.terminate()
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
            raise WhimbrelError(f"the server's process ended with code {self._process.wait()}; see its words above")
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
    """Serve until told to stop."""
    from whimbrel.backends.llm import LLM
    from whimbrel.server.loading import usual_load
    from whimbrel.server.run import serve
    from whimbrel.server.settings import ServerSettings

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--max-sequences", type=int, default=16)
    options = parser.parse_args()
    sizes = {"context": options.context, "max_sequences": options.max_sequences}
    settings = ServerSettings(models=(options.model,), model_options=sizes, host="127.0.0.1", port=0)
    load, loaded = usual_load(settings), SimpleQueue[LLM]()

    def shared(name: str) -> LLM:
        llm = load(name)
        loaded.put(llm)
        return llm

    address = SimpleQueue[str]()
    threading.Thread(target=_answer_lines, args=(address, loaded), daemon=True).start()
    serve(settings, listening=address.put, load=shared)


def _answer_lines(address: "SimpleQueue[str]", loaded: "SimpleQueue[Any]") -> None:
    """Use the engine for whoever writes to standard input; the driver's thread sleeps meanwhile."""
    port = int(address.get().rsplit(":", 1)[1])
    executor = loaded.get().executor
    print(json.dumps({"port": port}), flush=True)
    for line in sys.stdin:
        with executor.exclusive() as engine:
            print(json.dumps(run(engine, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
