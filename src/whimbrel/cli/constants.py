"""``topk=32,window_size=1k``: constants of sparse attention as people write them."""

from dataclasses import fields

from whimbrel.attention.sparse import SparseConfig
from whimbrel.cli.quantity import parse_quantity
from whimbrel.errors import InvalidParameter

_DEFAULTS = {field.name: field.default for field in fields(SparseConfig)}
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_constants(text: str) -> dict[str, int | bool | str]:
    """Some fields of a ``SparseConfig`` by name. Raises InvalidParameter for an unknown name or an impossible value."""
    constants: dict[str, int | bool | str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in _DEFAULTS:
            raise InvalidParameter(f"{part.strip()!r} is no NAME=VALUE with a name of {', '.join(_DEFAULTS)}")
        if name in constants:
            raise InvalidParameter(f"{name} is given twice")
        constants[name] = _value(name, value)
    return constants


def _value(name: str, text: str) -> int | bool | str:
    default = _DEFAULTS[name]
    if isinstance(default, bool):
        if text.lower() not in _TRUTHS:
            raise InvalidParameter(f"{name}={text!r} is neither true nor false")
        return _TRUTHS[text.lower()]
    if isinstance(default, int):
        return -1 if text == "-1" else parse_quantity(text)
    return text
