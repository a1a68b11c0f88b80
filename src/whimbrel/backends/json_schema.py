"""Check and simplify; a stub that the next commit fills."""

from collections.abc import Mapping
from typing import Any

OPTIONS = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "json_allowed_escapes": 'nrbtf"\\',
}
"""How JSON is written: as ``json.dumps`` and the chat templates' ``tojson`` do, without ``\\u`` escapes."""


def enforceable(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> Any:
    """The schema as llguidance enforces it."""
    return schema if isinstance(schema, bool) else dict(schema)
