"""One real server for all suites of the clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import MAX_QUEUE, MAX_SEQUENCES, Server, started

from whimbrel.ops import dispatch


@pytest.fixture(scope="session")
def server(smollm2: Path) -> Iterator[Server]:
    """The real server until the session ends; skipped where the real model or the native kernels are missing."""
    why_not = dispatch.get("attend").why_not("native")
    if why_not is not None:
        pytest.skip(why_not)
    sizes = ["--context", "4096", "--max-sequences", str(MAX_SEQUENCES), "--max-queue", str(MAX_QUEUE)]
    with started(*sizes, "--log-format", "json") as running:
        yield running
