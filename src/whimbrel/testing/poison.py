"""New memory full of NaN, so that a kernel that leaves an element unwritten is found at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within it, ``numpy.empty`` and ``empty_like`` return NaN (floats) or the most negative value (integers)."""
    empty, empty_like = np.empty, np.empty_like

    def poisoned_empty(*args: Any, **kwargs: Any) -> Any:
        return _poison(empty(*args, **kwargs))

    def poisoned_empty_like(*args: Any, **kwargs: Any) -> Any:
        return _poison(empty_like(*args, **kwargs))

    with patch.object(np, "empty", poisoned_empty), patch.object(np, "empty_like", poisoned_empty_like):
        yield


def _poison(array: Any) -> Any:
    if np.issubdtype(array.dtype, np.floating):
        array.fill(np.nan)
    elif np.issubdtype(array.dtype, np.integer):
        array.fill(np.iinfo(array.dtype).min)
    return array
