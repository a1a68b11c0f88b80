"""embedding through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import empty, needs_packed


def why_not(table: Any) -> str | None:
    """Needs a packed table."""
    return needs_packed(table)


def run(token_ids: Any, table: Any, *, scale: float = 1.0) -> Any:
    """Ids [T] int32 and table [V, K] to [T, K] fp32."""
    out = empty(token_ids.shape[0], table.shape[1])
    _native.embedding(token_ids, table.handle, scale, out)
    return out
