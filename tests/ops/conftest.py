"""Op tests run with poisoned memory, and with torch on one thread: two thread pools fight over two cores."""

from collections.abc import Iterator

import pytest
import torch

from whimbrel.testing.poison import poisoned_memory

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Everything that numpy allocates uninitialised is NaN."""
    with poisoned_memory():
        yield
