"""How much the suites of this folder asked for: the server's own count, once all of them have run."""

from pathlib import Path

import pytest
from running_server import Server

LEAST = 80
PATHS = ("/v1/", "/api/")


def test_the_clients_made_at_least_that_many_calls(request: pytest.FixtureRequest, server: Server) -> None:
    suites = {path.name for path in Path(__file__).parent.glob("test_client_*.py")}
    missing = suites - {item.path.name for item in request.session.items}
    if missing:
        pytest.skip(f"only counts when all suites run; not run: {', '.join(sorted(missing))}")
    answered = sum(
        server.metric("whimbrel_requests_total", path=path, status=status) for path in PATHS for status in "24"
    )
    assert answered >= LEAST
    assert server.metric("whimbrel_requests_total", status="5") <= server.metric(
        "whimbrel_requests_total", status="503", path="/health"
    ), "something was answered with 5xx"
