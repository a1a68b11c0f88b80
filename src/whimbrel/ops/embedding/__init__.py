"""embedding: the rows of a table, scaled.

    out[t] = scale * table[token_ids[t]]

For: the first step of a decoder; ``scale`` is MiniCPM's ``scale_emb`` (12), 1 elsewhere.
In: ``token_ids`` int32 [T], each in [0, V); ``table`` a weight [V, K], of any layout.
Out: [T, K] fp32 (reference: the table's dtype, at least fp32).
May not: clamp ids. Native raises ``ValueError`` on one outside the table, the reference ``IndexError``.
Accumulation: none; one dequantization and one multiplication in fp32. Differentiable in ``table``.
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def embedding(token_ids: Any, table: Any, *, scale: float = 1.0, impl: str = "auto") -> Any:
    """``scale * table[token_ids]``; the module's docstring is the specification."""
    return OP.choose(impl, table)(token_ids, table, scale=scale)
