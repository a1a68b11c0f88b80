"""What ``--schema``, ``--regex`` and ``--choices`` say about an answer."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.backends.shape import Shape


def shape_options(schema: str | None, regex: str | None, choices: str | None) -> dict[str, "Shape"]:
    """``{"shape": ...}`` for a stream of the model, {} where nothing was asked.

    Raises ``UsageError`` for more than one of them or a file that is no schema, ``InvalidParameter`` for a schema that
    can't be enforced and for impossible choices, ``MissingExtra`` without llguidance.
    """
    asked = [f"--{name}" for name, value in (("schema", schema), ("regex", regex), ("choices", choices)) if value]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} both say what the answer must look like; give one of them")
    if not asked:
        return {}
    from whimbrel.backends.grammar import check_schema
    from whimbrel.backends.shape import JsonSchema, OneOf, Regex

    if schema:
        read = _read_schema(schema)
        check_schema(read)
        return {"shape": JsonSchema(read)}
    if regex:
        return {"shape": Regex(regex)}
    listed = next(csv.reader([choices or ""], skipinitialspace=True))
    return {"shape": OneOf(tuple(choice.strip() for choice in listed))}


def _read_schema(schema: str) -> Any:
    """A schema given as JSON, or the file that has it."""
    given = schema.lstrip().startswith(("{", "true", "false"))
    try:
        text = schema if given else Path(schema).expanduser().read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise UsageError(f"--schema {schema}: can't be read: {error.strerror}; give a file or JSON") from None
    except ValueError as error:
        what = "it" if given else schema
        raise UsageError(f"--schema: {what} is no JSON: {error}") from None
