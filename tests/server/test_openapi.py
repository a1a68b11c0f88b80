"""schemathesis against a running server's own description: no 5xx, and no answer that the description doesn't know.

The model is a tiny one, so that whatever is asked is answered soon; server, engine and kernels are the real ones.
Requests are generated from the description, right ones and wrong ones; the seed is fixed.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from running_server import KEY, Server, started
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import Failure, FailureGroup

from whimbrel.ops import dispatch
from whimbrel.testing import tiny

if TYPE_CHECKING:
    from schemathesis.specs.openapi.schemas import OpenApiSchema

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = 16
"""Requests of each kind, right and wrong, for each operation."""
PATHS = (
    "/health",
    "/metrics",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/files",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/responses",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/show",
    "/api/tags",
)


@pytest.fixture(scope="module")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a tiny model; skipped where the native kernels are missing."""
    why_not = dispatch.get("attend").why_not("native")
    if why_not is not None:
        pytest.skip(why_not)
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("served") / "tiny", "llama", max_position_embeddings=512)
    with started("--context", "256", "--max-sequences", "4", model=str(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def description(tiny_server: Server) -> "OpenApiSchema":
    """What the server says about itself."""
    config = schemathesis.Config.from_dict({"seed": 4})
    return schemathesis.openapi.from_url(f"{tiny_server.url}/openapi.json", headers=_headers(), config=config)


def test_every_answer_is_described(description: "OpenApiSchema", tiny_server: Server) -> None:
    model = json.loads(tiny_server.get("/v1/models"))["data"][0]["id"]
    failures: dict[str, str] = {}
    operations = [result.ok() for result in description.get_all_operations()]
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _try_out(operation, mode, model)
            except (FailureGroup, Failure) as error:
                failures[f"{operation.label} ({mode.value})"] = "; ".join(
                    map(str, getattr(error, "exceptions", [error]))
                )
            except Unsatisfiable:  # a path without any input has no wrong one
                continue
    assert tiny_server.metric("whimbrel_requests_total", path="/v1/", status="200") > EXAMPLES, "hardly any was right"
    assert len(operations) >= len(PATHS) and not failures, "\n\n".join(f"{k}: {v}" for k, v in failures.items())


def _try_out(operation: schemathesis.APIOperation, mode: GenerationMode, model: str) -> None:
    """Generated requests to one path; raises what schemathesis finds. Right ones name the model that is there."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = model
        case.call_and_validate(headers=_headers(), checks=CHECKS, timeout=60)

    ask()


def test_every_path_is_described(tiny_server: Server) -> None:
    described = json.loads(tiny_server.get("/openapi.json"))["paths"]
    assert set(PATHS) <= set(described)
    bare = [
        f"{method} {path}"
        for path, methods in described.items()
        for method, operation in methods.items()
        if not operation.get("summary") and not operation.get("description")
    ]
    assert not bare, "operations without a word about what they do"


def _headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}
