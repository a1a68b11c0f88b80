"""Report: the numbers of an evaluation as one JSON object, and as a table of scores."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whimbrel.attention.keys import KeyCount
from whimbrel.errors import UsageError
from whimbrel.eval.provenance import provenance
from whimbrel.eval.record import Record, mean_score

SCHEMA_VERSION = 1
"""Goes up when a field changes its meaning or goes away."""

RowOf = Callable[[Record], Any]
"""what a record's row in the table is: its depth, its task"""


def report(
    name: str,
    records: Sequence[Record],
    *,
    identity: Mapping[str, Any],
    row: RowOf,
    row_name: str,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything about one evaluation: scores in per cent, sparsity, settings, where it ran, and every record.

    ``warnings``: what the backend says about how the model was opened (``Capabilities.warnings``).
    """
    by_row = means(records, row)
    return {
        "schema_version": SCHEMA_VERSION,
        "eval": name,
        **identity,
        **provenance(),
        "warnings": list(warnings),
        "score": overall(records, row),
        "sparsity": sparsity(records).sparsity,
        "by_length": {length: _at_length(records, length, row) for length in lengths(records)},
        "table": [
            {row_name: key, "length": length, "score": score, "items": count}
            for (key, length), (score, count) in by_row.items()
        ],
        "records": [asdict(record) for record in records],
    }


def means(records: Sequence[Record], row: RowOf) -> dict[tuple[Any, int], tuple[float, int]]:
    """(row, length) -> mean score in per cent and number of items, in the order of the records."""
    groups: dict[tuple[Any, int], list[Record]] = {}
    for record in records:
        groups.setdefault((row(record), record.length), []).append(record)
    return {key: (mean_score(group) or 0.0, len(group)) for key, group in groups.items()}


def overall(records: Sequence[Record], row: RowOf) -> float | None:
    """Mean over the cells of the table, so that each counts the same however many items it has."""
    cells = [score for score, _ in means(records, row).values()]
    return sum(cells) / len(cells) if cells else None


def lengths(records: Sequence[Record]) -> list[int]:
    """The lengths that there are, ascending."""
    return sorted({record.length for record in records})


def sparsity(records: Sequence[Record]) -> KeyCount:
    """Keys of all tokens that were read and written."""
    return sum((KeyCount(record.visible_keys, record.attended_keys) for record in records), KeyCount())


def cells(records: Sequence[Record], row: RowOf, label: Callable[[Any], str]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text: a row for each task or depth, a column for each length, means and sparsity below."""
    columns = lengths(records)
    by_row = means(records, row)
    rows = [
        [label(key), *(f"{by_row[key, length][0]:.0f}" if (key, length) in by_row else "-" for length in columns)]
        for key in dict.fromkeys(row(record) for record in records)
    ]
    at = [_at_length(records, length, row) for length in columns]
    rows.append(["mean", *(f"{found['score']:.1f}" for found in at)])
    rows.append(["keys not attended", *(f"{found['sparsity']:.1%}" for found in at)])
    rows.append(["at the prompt's end", *(f"{found['last_sparsity']:.1%}" for found in at)])
    return ["", *(f"{length:,}" for length in columns)], rows


def save(value: Mapping[str, Any], path: Path) -> None:
    """Write a report; the file is whole or as it was before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def journal_path(output: Path | None) -> Path | None:
    """Where the records of a report go meanwhile. Raises ``UsageError`` if it doesn't end in .json."""
    if output is None:
        return None
    if output.suffix != ".json":
        raise UsageError(f"--output {output}: the result is JSON, so give a name that ends in .json")
    return output.with_suffix(".jsonl")


def _at_length(records: Sequence[Record], length: int, row: RowOf) -> dict[str, Any]:
    some = [record for record in records if record.length == length]
    return {
        "score": overall(some, row),
        "items": len(some),
        "sparsity": sparsity(some).sparsity,
        "last_sparsity": sum(record.last_sparsity for record in some) / len(some),
    }
