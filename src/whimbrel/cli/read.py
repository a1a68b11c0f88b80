"""``whimbrel read``: a document through the model once, into a file that ``whimbrel ask`` maps."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import bytes_text
from whimbrel.cli.shell import verb
from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.backends.reading import Reading


@verb()
def read(
    document: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Text, Markdown, HTML, PDF (- is standard input); with --check, a .kv."),
    ],
    model: options.Model = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.  [default: the document's name, .kv]")
    ] = None,
    system: options.System = None,
    context: options.Context = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    attention: options.Attention = None,
    sparse: options.Sparse = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read nothing; compare a .kv file with its checksums.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Read a document once, to ask it for ever.

    An interrupted reading is gone on with when the same command runs again.
    """
    flags = {
        "model": model,
        "context": context,
        "threads": threads,
        "weights": weights,
        "kv_dtype": kv_dtype,
        "attention": attention,
        "sparse": sparse,
    }
    if check:
        given = {**flags, "out": out, "system": system}
        if any(value is not None for value in given.values()):
            raise UsageError("--check only compares a file with its checksums; leave the other options out")
        _check(Path(document), json)
    else:
        _read(document, out, system, flags, json)


def _read(name: str, out: Path | None, system: str | None, flags: dict[str, Any], json: bool) -> None:
    from whimbrel.cli.answer import open_model
    from whimbrel.formats.kv_file import is_kv_file

    if name != "-" and is_kv_file(Path(name)):
        raise UsageError(f'{name} was read already: whimbrel ask {name} "QUESTION", or --check it')
    data = _standard_input() if name == "-" else None
    path = Path("standard input" if name == "-" else name)
    if data is None and not path.exists():
        raise UsageError(f"there is no document {path}; check the path")
    llm = open_model(**flags)
    start = time.monotonic()
    with llm, terminal.progress("tokens") as progress:
        reading = llm.read_document(
            path,
            out,
            system=system,
            data=data,
            progress=lambda done, total: progress("reading", done, total),
            announce=_announce,
        )
    seconds = time.monotonic() - start
    if json:
        terminal.result_json(_as_json(reading, llm.source, seconds))
    else:
        print(_line(reading, seconds))
        terminal.note(f'whimbrel ask {reading.path} "..." answers without reading it again')


def _announce(needed: int, free: int) -> None:
    terminal.note(f"this takes {bytes_text(needed)} of disk; {bytes_text(free)} are free")


def _standard_input() -> bytes:
    import sys

    return sys.stdin.buffer.read()


def _line(reading: "Reading", seconds: float) -> str:
    size = f"{reading.tokens:,} tokens, {bytes_text(reading.file_bytes)}"
    if reading.already:
        return f"{reading.path}  {size}, was read before"
    new = reading.tokens - 64 * reading.resumed_blocks
    resumed = f", {reading.resumed_blocks:,} of {reading.blocks:,} blocks were there" if reading.resumed_blocks else ""
    return f"{reading.path}  {size}, in {seconds:.1f} s ({new / seconds:,.0f}/s){resumed}"


def _as_json(reading: "Reading", model: str, seconds: float) -> dict[str, Any]:
    return {
        "path": str(reading.path),
        "model": model,
        "tokens": reading.tokens,
        "blocks": reading.blocks,
        "bytes": reading.file_bytes,
        "resumed_blocks": reading.resumed_blocks,
        "already": reading.already,
        "seconds": seconds,
    }


def _check(path: Path, json: bool) -> None:
    """Compare every block with its checksum; FormatError names the first that differs."""
    from whimbrel.backends.stored import StoredDocument

    stored = StoredDocument(path)
    with terminal.progress("blocks") as progress:
        stored.file.check(lambda done, total: progress("checking", done, total))
    if json:
        terminal.result_json(
            {"path": str(path), "blocks": stored.num_blocks, "bytes": stored.file.nbytes, "intact": True}
        )
    else:
        print(f"{path}  {stored.num_blocks:,} blocks, {bytes_text(stored.file.nbytes)}, all intact")
