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


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The native ops use this instruction set (``harness.on_every_isa``), one thread, and are put back afterwards."""
    from whimbrel import _native

    before = _native.isa(), _native.num_threads()
    _native.select_isa(request.param)
    _native.set_num_threads(1)
    yield request.param
    _native.select_isa(before[0])
    _native.set_num_threads(before[1])
