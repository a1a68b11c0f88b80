"""What all commands share: the flags that every verb takes, and how an error becomes one line and an exit code.

Exit codes: 0, 1 failure, 2 usage, 3 model not found, 4 does not fit in memory, 130 interrupted.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from whimbrel import hardware
from whimbrel.cli import terminal
from whimbrel.errors import WhimbrelError

app = typer.Typer(
    name="whimbrel",
    help="Efficient small language models that read far, on the machine you have.",
    rich_markup_mode=None,  # plain help: rich takes longer to import than everything else together
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Everywhere: -q, -v, --offline, --no-color, --debug. Numbers may be written 32k or 1.5G.",
)
"""The program. Each command file adds its verb with ``@verb()``."""

COMMON = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to standard error.")],
    "offline": Annotated[bool, typer.Option("--offline", help="Touch no network.")],
    "no_color": Annotated[bool, typer.Option("--no-color", help="No colours and no moving progress bar.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}
"""Flags that every verb takes, after its own."""


def verb(name: str | None = None, *, hidden: bool = False, group: typer.Typer = app) -> Callable[..., Any]:
    """Decorator: register a function as a verb that also takes the common flags and reports errors in one line."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            flags = terminal.Flags(**{key: arguments.pop(key) for key in COMMON})
            with one_line_errors(terminal.configure(flags)):
                function(**arguments)

        signature = inspect.signature(function)
        extra = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for key, annotation in COMMON.items()
        ]
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
        run.__annotations__ = {**function.__annotations__, **COMMON}
        group.command(name or function.__name__.replace("_", "-"), hidden=hidden)(run)
        return function

    return register


@contextmanager
def one_line_errors(flags: terminal.Flags) -> Iterator[None]:
    """Turn exceptions into a line on standard error and an exit code; with ``--debug``, show the traceback before it."""
    try:
        yield
    except WhimbrelError as error:
        _leave(str(error), error.exit_code, flags)
    except KeyboardInterrupt:
        _leave("interrupted", 130, flags)
    except BrokenPipeError:
        # The reader (head, less) has gone: nobody is left to tell. Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except MemoryError:
        _leave("out of memory; try a smaller --context, --kv-dtype q8 or smaller weights (`whimbrel plan`)", 4, flags)
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:  # noqa: BLE001  (the last resort of the program; --debug shows the traceback)
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        _leave(f"this should not have happened: {text}. --debug shows where; please report it", 1, flags)


def _leave(message: str, code: int, flags: terminal.Flags) -> None:
    """Print the line and leave. Called while the exception is being handled, so its traceback is still there."""
    if flags.debug or hardware.flag("WHIMBREL_DEBUG"):
        import traceback

        traceback.print_exc()
    print(f"whimbrel: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code) from None
