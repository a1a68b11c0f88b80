"""Write docs/cli.md and docs/environment.md from the program itself: ``make docs``. A structure test compares them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

DOCS = Path(__file__).parent


def cli_page() -> str:
    """Every ``--help`` page, as a terminal of 100 columns shows it."""
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "100"
    from whimbrel.cli.main import app

    pages = [
        f"## {name}\n\n```text\n{text.rstrip()}\n```\n" for name, text in _pages(typer.main.get_command(app), None)
    ]
    return "# The command line\n\nMade by `make docs` from the program's own `--help`.\n\n" + "\n".join(pages)


def environment_page() -> str:
    """Every variable that whimbrel reads."""
    from whimbrel.hardware import ENVIRONMENT

    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items())
    return (
        "# Environment variables\n\nMade by `make docs` from `whimbrel.hardware`. A flag on the command line wins over a"
        f" variable.\n\n| variable | what it does |\n|---|---|\n{rows}\n\n"
        "Also honoured, with their usual meaning: `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` (the Hub),"
        " pip's own variables and files (models that come in wheels), `NO_COLOR`, `SSL_CERT_FILE`, `https_proxy`.\n"
    )


PAGES = {"cli.md": cli_page, "environment.md": environment_page}


def _pages(command: Any, parent: Any) -> Iterator[tuple[str, str]]:
    name = command.name if parent else "whimbrel"
    width = {"terminal_width": 100, "max_content_width": 100, "help_option_names": ["-h", "--help"]}
    context = command.context_class(command, info_name=name, parent=parent, **width)
    yield context.command_path, command.get_help(context)
    for child in sorted(getattr(command, "commands", {})):
        yield from _pages(command.commands[child], context)


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}", file=sys.stderr)
