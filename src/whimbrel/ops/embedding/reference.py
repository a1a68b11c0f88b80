"""embedding in torch."""

from typing import Any

import torch
from torch import Tensor


def why_not(*arrays: Any) -> str | None:
    """Serves everything: numpy arrays and packed weights are converted."""
    return None


def run(token_ids: Any, table: Any, *, scale: float = 1.0) -> Tensor:
    """Ids [T] and table [V, K] to [T, K]."""
    weight = table if isinstance(table, Tensor) else torch.as_tensor(table.dequantize())
    ids = torch.as_tensor(token_ids, dtype=torch.long, device=weight.device)
    return scale * weight[ids].to(torch.promote_types(weight.dtype, torch.float32))
