"""``/v1/models``: what may be asked for, and what is known of it."""

from typing import Any

from fastapi import APIRouter, Request

from whimbrel import hardware
from whimbrel.server.documented import ERRORS
from whimbrel.server.pool import Resident
from whimbrel.server.service import Service

router = APIRouter()


@router.get("/v1/models", responses=ERRORS)
async def list_models(request: Request) -> dict[str, Any]:
    """All models."""
    service: Service = request.app.state.service
    return {"object": "list", "data": [describe(service, name) for name in service.pool.known()]}


@router.get("/v1/models/{name:path}", responses=ERRORS)
async def retrieve_model(name: str, request: Request) -> dict[str, Any]:
    """One model."""
    service: Service = request.app.state.service
    return describe(service, service.pool.find(name))


def describe(service: Service, name: str) -> dict[str, Any]:
    """OpenAI's fields, and ours in ``meta``."""
    resident = service.pool.residents.get(name)
    meta: dict[str, Any] = {"state": service.pool.state(name), "default": name == service.pool.names[0]}
    if reason := service.pool.failed.get(name):
        meta["error"] = reason
    if resident is not None:
        meta |= facts(resident)
    return {"id": name, "object": "model", "created": service.started, "owned_by": "whimbrel", "meta": meta}


def facts(resident: Resident) -> dict[str, Any]:
    """What is known of a model in memory."""
    llm, offers = resident.llm, resident.llm.capabilities
    return {
        "context": offers.max_context,
        "trained_context": llm.trained_context,
        "max_sequences": offers.max_sequences,
        "vocab_size": offers.vocab_size,
        "weights": llm.weights or "as stored",
        "attention": "dense" if offers.sparse is None else "sparse",
        "documents": offers.documents,
        "constraints": offers.constraints,
        "chat": llm.chat_template is not None,
        "tools": getattr(llm, "tool_format", None),
        "thinking": getattr(llm, "thinks", False),
        "implementation": offers.implementation,
        "isa": hardware.isa(),
        "warnings": list(offers.warnings),
    }
