"""``/health``, ``/metrics``, ``/v1/status``: how the server is, for balancers, for Prometheus, for the chat page."""

import os
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from whimbrel import __version__, hardware
from whimbrel.server.documented import ERRORS
from whimbrel.server.errors import RETRY_SECONDS
from whimbrel.server.metrics import CONTENT_TYPE
from whimbrel.server.openai.models import describe
from whimbrel.server.service import Service

router = APIRouter()


@router.get("/health", responses=ERRORS)
async def health(request: Request) -> Response:
    """200 once requests can be answered; 503 while the first model loads, and while the server stops."""
    service: Service = request.app.state.service
    if service.ready:
        return JSONResponse({"status": "ok"})
    state = "stopping" if service.stopping else "error" if service.load_error else "loading"
    body: dict[str, Any] = {"status": state}
    if service.load_error:
        body["error"] = service.load_error
    return JSONResponse(body, status_code=503, headers={"Retry-After": str(RETRY_SECONDS)})


@router.get("/metrics", responses={**ERRORS, 200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


@router.get("/v1/status", responses=ERRORS)
def status(request: Request) -> dict[str, Any]:
    """Models, memory, sequences and speed, in one object."""
    service: Service = request.app.state.service
    memory, stats = hardware.memory(), service.stats()
    return {
        "version": __version__,
        "models": [describe(service, name) for name in service.pool.known()],
        "memory": {"resident": _resident(), "available": memory.available, "total": memory.total},
        "cache": {
            name: {"bytes": one.cache_bytes, "blocks": one.blocks, "used": one.blocks_used}
            for name, one in stats.items()
        },
        "sequences": {
            "running": sum(one.running for one in stats.values()),
            "waiting": sum(one.waiting for one in stats.values()),
        },
        "tokens_per_second": service.metrics.rate(),
    }


def _resident() -> int | None:
    """Bytes of this process in memory; None where the system doesn't say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
