"""``whimbrel list``: which models are here."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import bytes_text, count_text
from whimbrel.cli.shell import verb


@verb("list")
def list_models(
    all: Annotated[bool, typer.Option("--all", "-a", help="Also the catalogue: what `pull` knows by name.")] = False,
    json: options.Json = False,
) -> None:
    """List the models that are here."""
    from whimbrel.zoo.catalog import catalog
    from whimbrel.zoo.store import Store

    records = Store().records()
    here = {record.name for record in records}
    known = [entry for entry in catalog().values() if entry.name not in here] if all else []
    if json:
        terminal.result_json(
            {"models": [asdict(record) for record in records], "catalog": [asdict(entry) for entry in known]}
        )
        return
    rows = [
        (record.name, bytes_text(record.bytes), record.kind if Path(record.path).exists() else "gone", record.source)
        for record in records
    ]
    rows += [
        (entry.name, "-", "not here", f"{entry.title}, {count_text(entry.parameters)} parameters") for entry in known
    ]
    if rows:
        terminal.table(("name", "size", "kind", "from"), rows)
    else:
        terminal.note("no model is here yet; `whimbrel pull smollm2-135m` fetches a small one (93 MB)")
