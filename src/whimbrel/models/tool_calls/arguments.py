"""Arguments of a call as values: from JSON, from Python literals, and from a Python call with keywords.

Models mix both notations (``true`` in Python, ``None`` in lists), so each value may be in either. Nothing is evaluated,
and no value is changed: what can't be read raises ``ValueError``.
"""

import ast
import json
from collections.abc import Sequence
from typing import Any

from whimbrel.models.tool_calls.brackets import Brackets

JSON_NAMES = {"true": True, "false": False, "null": None}


def read_json(text: str) -> Any:
    """JSON without the extensions of Python's reader. Raises ``ValueError``."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_value(text: str) -> Any:
    """A JSON value or a Python literal. Raises ``ValueError``."""
    try:
        return read_json(text)
    except ValueError:
        pass
    try:
        value = ast.literal_eval(_JsonNames().visit(ast.parse(text.strip(), mode="eval")))
        return json.loads(json.dumps(value, allow_nan=False))
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no literal") from error


def read_keywords(text: str, positional: Sequence[str] = ()) -> dict[str, Any]:
    """``(x=1, y="a")`` as a dictionary; values without a name get those of ``positional``. Raises ``ValueError``."""
    arguments: dict[str, Any] = {}
    names = list(positional)
    for part in _parts(text):
        key, found, value = part.partition("=")
        if not found or not _is_name(key.strip()):
            if not names:
                raise ValueError(f"{part!r} has no name")
            key, value = names[0], part
        key = key.strip()
        if key in arguments:
            raise ValueError(f"{key!r} comes twice")
        names = [name for name in names if name != key]
        arguments[key] = read_value(value)
    return arguments


class _JsonNames(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(JSON_NAMES[node.id]) if node.id in JSON_NAMES else node


def _is_name(text: str) -> bool:
    return bool(text) and not any(character in "\"'{}[]() \n" for character in text)


def _parts(text: str) -> list[str]:
    """What stands between the commas of a call's parentheses."""
    brackets = Brackets(python=True)
    if brackets.scan(text) != len(text):
        raise ValueError(f"{text!r} has no end")
    ends = [*brackets.commas, len(text) - 1]
    parts = [text[start + 1 : end] for start, end in zip([0, *ends], ends, strict=False)]
    return parts if parts[-1].strip() else parts[:-1]  # none at all, or a comma that came last


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
