"""What goes where: results to standard output, everything else to standard error.

Plain prints as long as nobody looks (a pipe, ``--quiet``, ``--no-color``); rich draws only progress bars, and is
imported only when one is shown.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 1
"""Of every ``--json`` output; goes up when a field changes its meaning or goes away."""

_SHORT_SECONDS = 2.0
"""Downloads and checks that end sooner get no line in a log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """The flags that every verb takes."""

    quiet: bool = False
    verbose: bool = False
    offline: bool = False
    no_color: bool = False
    debug: bool = False


_flags = Flags()


def configure(flags: Flags) -> Flags:
    """Use ``flags`` from here on, and log to standard error as they say."""
    global _flags
    _flags = flags
    import logging

    level = logging.DEBUG if flags.verbose else logging.ERROR if flags.quiet else logging.WARNING
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "filelock", "asyncio", "urllib3", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not flags.verbose:  # warns of each of its retries; what comes of them is said in one line
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return flags


def offline() -> bool:
    """Was ``--offline`` given?"""
    return _flags.offline


def write(text: str) -> None:
    """A piece of a result, as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


def aside(text: str) -> None:
    """A piece of what is no result but worth seeing as it comes (a model's thinking): dimmed, on standard error."""
    if text and not _flags.quiet:
        sys.stderr.write(f"\x1b[2m{text}\x1b[0m" if draws() else text)
        sys.stderr.flush()


def result(text: str) -> None:
    """One line, or more, of a result."""
    print(text, flush=True)


def result_json(value: dict[str, Any]) -> None:
    """The result as one bare JSON object with a ``schema_version``."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, **value}, ensure_ascii=False), flush=True)


def note(text: str) -> None:
    """Something worth knowing that is no result; silent with ``--quiet``."""
    if not _flags.quiet:
        print(text, file=sys.stderr, flush=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A result in aligned columns; numbers to the right."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    right = [all(cell[:1].isdigit() or cell in {"-", ""} for cell in column[1:]) and bool(rows) for column in columns]
    for row in (headings, *rows):
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        result("  ".join(cells).rstrip())


def draws() -> bool:
    """May something move on standard error? Only where a person looks."""
    return sys.stderr.isatty() and not (_flags.quiet or _flags.no_color or os.environ.get("TERM") == "dumb")


@contextmanager
def progress(unit: str = "bytes") -> Iterator[Callable[[str, int, int | None], None]]:
    """A function (what, done, total) to call while something goes on: a bar, or a line for each finished thing.

    ``unit`` is "bytes" or "tokens". The bar goes away when the block ends.
    """
    if draws():
        with _bar(unit) as show:
            yield show
    else:
        yield _lines(unit)


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()]
        if unit == "bytes"
        else [MofNCompleteColumn(), TextColumn(f"{unit} {{task.fields[speed]}}")]
    )
    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    columns = [TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, speed="")
            task = bars.tasks[tasks[what]]
            speed = f"{task.speed:,.0f}/s" if task.speed else ""
            bars.update(tasks[what], completed=done, total=total, speed=speed)

        yield show


def _lines(unit: str) -> Callable[[str, int, int | None], None]:
    """For logs: a line for each quarter of what takes long, so that a log shows life without being flooded."""
    shown: dict[str, int] = {}
    began: dict[str, float] = {}

    def show(what: str, done: int, total: int | None) -> None:
        quarter = 4 * done // total if total else 0
        now = time.monotonic()
        if shown.get(what, -1) < quarter and (unit != "bytes" or now - began.setdefault(what, now) > _SHORT_SECONDS):
            shown[what] = quarter
            of = f" of {total:,}" if total else ""
            note(f"{what}: {done:,}{of} {unit}")

    return show
