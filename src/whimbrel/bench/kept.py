"""What keeping costs and saves: a conversation on the disk, and a document, against reading them again.

``python -m whimbrel.bench.kept --document examples/documents/pep-0616.txt``. Each first token is that of a model that was
just loaded, so nothing but the file can serve it.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from whimbrel.backends.llm import LLM
from whimbrel.backends.stream import Stream
from whimbrel.bench.record import ForeignLoad, Spread
from whimbrel.eval.provenance import provenance
from whimbrel.zoo.store import resolve

QUESTION = "Say it in one sentence."
PART = 2500
"""Characters of the document in each turn of the conversation."""


def conversation(llm: LLM, text: str, tokens: int, file: Path) -> dict[str, Any]:
    """Talk about parts of a text until the conversation is that long, and save it."""
    chat = llm.session()
    start = 0
    while len(chat.token_ids) < tokens:
        part = text[start : start + PART]
        chat.send(f"{part}\nWhat is this part about?", max_tokens=120, ignore_eos=True)
        start = start + PART if start + 2 * PART < len(text) else 0
    began = perf_counter()
    kept = chat.save_to(file)
    seconds = perf_counter() - began
    return {"tokens": len(chat.token_ids), "kept": kept, "bytes": file.stat().st_size, "save_s": round(seconds, 3)}


def first_token(open_stream: Callable[[], Stream]) -> tuple[float, int]:
    """Seconds from asking to the first token, and the prompt's tokens that the cache served."""
    began = perf_counter()
    with open_stream() as stream:
        piece = next(piece for piece in stream if piece.token_ids)
        return perf_counter() - began, piece.cached_tokens


def measure(model: Path, document: Path, *, context: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Both, ``rounds`` times: kept and read again by turns."""
    with tempfile.TemporaryDirectory() as folder:
        session, kv = Path(folder) / "talk.kv", Path(folder) / "document.kv"
        with LLM(model, context=context) as llm:
            talk = conversation(llm, document.read_text(encoding="utf-8"), tokens, session)
            began = perf_counter()
            reading = llm.read_document(document, kv)
            read = {"tokens": reading.tokens, "bytes": reading.file_bytes, "read_s": round(perf_counter() - began, 3)}
            chat = llm.session_from(session)
        saved = chat.save()
        seconds: dict[str, list[float]] = {}
        cached: dict[str, int] = {}
        for _ in range(rounds):
            for name, ask in _ways(session, kv, saved).items():
                with LLM(model, context=context) as llm:
                    opened, (took, hits) = ask(llm)
                seconds.setdefault(f"{name}_open_s", []).append(opened)
                seconds.setdefault(f"{name}_first_token_s", []).append(took)
                cached[name] = hits
    return {
        "session": talk,
        "document": read,
        "cached_tokens": cached,
        **{name: Spread.of(values) for name, values in seconds.items()},
    }


Way = Callable[[LLM], tuple[float, tuple[float, int]]]


def _ways(session: Path, kv: Path, saved: dict[str, Any]) -> dict[str, Way]:
    """How each is asked: what is measured is opening, and the first token behind it."""

    def kept_session(llm: LLM) -> tuple[float, tuple[float, int]]:
        began = perf_counter()
        chat = llm.session_from(session)
        opened = perf_counter() - began
        return opened, first_token(lambda: chat.stream(QUESTION, max_tokens=4))

    def session_again(llm: LLM) -> tuple[float, tuple[float, int]]:
        chat = llm.session()
        chat.load(saved)
        return 0.0, first_token(lambda: chat.stream(QUESTION, max_tokens=4))

    def kept_document(llm: LLM) -> tuple[float, tuple[float, int]]:
        began = perf_counter()
        with llm.open_document(kv) as document:
            opened = perf_counter() - began
            return opened, first_token(lambda: document.stream(QUESTION, max_tokens=4))

    def document_again(llm: LLM) -> tuple[float, tuple[float, int]]:
        with llm.open_document(kv) as document:
            ids = document.prompt(QUESTION).ids
        return 0.0, first_token(lambda: llm.stream_ids(ids, max_tokens=4))

    return {
        "session_kept": kept_session,
        "session_again": session_again,
        "document_kept": kept_document,
        "document_again": document_again,
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--document", type=Path, required=True)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=3900, help="of the conversation")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with ForeignLoad() as load:
        found = measure(
            resolve(options.model),
            options.document,
            context=options.context,
            tokens=options.tokens,
            rounds=options.rounds,
        )
    report = {**provenance(), "model": options.model, "foreign_load": load.share, **found}
    print(json.dumps(report, indent=1, default=lambda spread: [spread.min, spread.median, spread.max]))


if __name__ == "__main__":
    main()
