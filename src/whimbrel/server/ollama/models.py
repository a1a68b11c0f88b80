"""``/api/tags``, ``/api/show``, ``/api/ps``, ``/api/version``: which models there are, and what is known of them."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request

from whimbrel import __version__
from whimbrel.server.documented import OLLAMA_ERRORS
from whimbrel.server.fields import Body
from whimbrel.server.ollama.fields import AnyTypeIsJson
from whimbrel.server.pool import Resident
from whimbrel.server.service import Service
from whimbrel.zoo.store import Record, Store

router = APIRouter(route_class=AnyTypeIsJson)

FOREVER = timedelta(days=36_500)


class ShowBody(Body):
    """Which model; ``name`` is an older word for it."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


@router.get("/api/version", responses=OLLAMA_ERRORS)
async def version() -> dict[str, str]:
    """This server's own version."""
    return {"version": __version__}


@router.get("/api/tags", responses=OLLAMA_ERRORS)
async def tags(request: Request) -> dict[str, Any]:
    """Models that may be asked for."""
    service: Service = request.app.state.service
    return {"models": [_listed(service, name) for name in service.pool.known()]}


@router.get("/api/ps", responses=OLLAMA_ERRORS)
async def ps(request: Request) -> dict[str, Any]:
    """Models in memory."""
    service: Service = request.app.state.service
    found = []
    for name, resident in service.pool.residents.items():
        running = {"size_vram": 0, "expires_at": _expiry(service, resident), "context_length": resident.llm.context}
        found.append({**_listed(service, name), **running})
    return {"models": found}


@router.post("/api/show", responses=OLLAMA_ERRORS)
async def show(body: ShowBody, request: Request) -> dict[str, Any]:
    """What is known of a model, which is loaded for it."""
    service: Service = request.app.state.service
    body.settle(request, *(["verbose"] if body.verbose else []))
    async with service.pool.use(body.model or body.name) as resident:
        llm = resident.llm
        record = _record(resident.name)
        return {
            "details": _details(resident, record),
            "model_info": _info(resident),
            "capabilities": _capabilities(resident),
            "template": llm.chat_template.source if llm.chat_template else "",
            "license": record.license if record else "",
            "modified_at": _time(record.added if record else service.started),
        }


def _listed(service: Service, name: str) -> dict[str, Any]:
    record, resident = _record(name), service.pool.residents.get(name)
    return {
        "name": name,
        "model": name,
        "modified_at": _time(record.added if record else service.started),
        "size": record.bytes if record else _size(name),
        "digest": record.sha256 if record else "",
        "details": _details(resident, record),
    }


def _details(resident: Resident | None, record: Record | None) -> dict[str, Any]:
    """Of a model that isn't loaded only what its record says."""
    path = record.path if record else resident.llm.source if resident else ""
    config = resident.llm.config if resident else None
    family = config.model_type if config else ""
    return {
        "parent_model": "",
        "format": "gguf" if path.endswith(".gguf") else "safetensors",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": f"{config.num_parameters() / 1e6:.0f}M" if config else "",
        "quantization_level": resident.llm.weights or "" if resident else "",
    }


def _info(resident: Resident) -> dict[str, Any]:
    config = resident.llm.config
    if config is None:
        return {}
    name = config.model_type
    shape = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
    }
    sparse = (
        {} if config.sparse is None else {f"{name}.sparse.{key}": value for key, value in asdict(config.sparse).items()}
    )
    general = {"general.architecture": name, "general.parameter_count": config.num_parameters()}
    return {**general, **{f"{name}.{key}": value for key, value in shape.items()}, **sparse}


def _capabilities(resident: Resident) -> list[str]:
    llm = resident.llm
    has = {"completion": True, "tools": llm.chat_template is not None, "thinking": llm.thinks, "embedding": True}
    return [name for name, there in has.items() if there]


def _record(name: str) -> Record | None:
    return Store().get(name)


def _size(name: str) -> int:
    path = Path(name)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _expiry(service: Service, resident: Resident) -> str:
    seconds = service.settings.keep_alive if resident.keep_alive is None else resident.keep_alive
    left = (
        FOREVER
        if seconds is None or not isfinite(seconds)
        else timedelta(seconds=seconds - (monotonic() - resident.used))
    )
    return (datetime.now(UTC) + left).isoformat()


def _time(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat()
