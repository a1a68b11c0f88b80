"""``/api/tags``, ``/api/show``, ``/api/ps``, ``/api/version``: which models there are, and what is known of them.

What a model's files say, it says whether it is loaded or not; nothing is loaded for a description.
"""

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request

from whimbrel import __version__
from whimbrel.models.reasoning import find_tags
from whimbrel.server.documented import OLLAMA_ERRORS
from whimbrel.server.fields import Body
from whimbrel.server.ollama.fields import AnyTypeIsJson
from whimbrel.server.ollama.files import Files, files_of
from whimbrel.server.pool import Resident
from whimbrel.server.service import Service

router = APIRouter(route_class=AnyTypeIsJson)

FOREVER = timedelta(days=36_500)
"""Until when a model stays that nothing unloads: the field wants a date."""

_NO_DETAILS = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "",
}


class ShowBody(Body):
    """Which model; ``name`` is an older word for it. Everything is told, ``verbose`` or not."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


@router.get("/api/version", responses=OLLAMA_ERRORS)
async def version() -> dict[str, str]:
    """This server's own version, which is none of Ollama's."""
    return {"version": __version__}


@router.get("/api/tags", responses=OLLAMA_ERRORS)
def tags(request: Request) -> dict[str, Any]:
    """Models that may be asked for."""
    service: Service = request.app.state.service
    return {"models": [_listed(name, files_of(name), service) for name in service.pool.known()]}


@router.get("/api/ps", responses=OLLAMA_ERRORS)
def ps(request: Request) -> dict[str, Any]:
    """Models in memory. ``size`` is what their weights have on the disk, and their cache."""
    service: Service = request.app.state.service
    stats, found = service.stats(), []
    for name, resident in list(service.pool.residents.items()):
        listed = _listed(name, files_of(name), service)
        running = {
            "size": listed["size"] + (stats[name].cache_bytes if name in stats else 0),
            "size_vram": 0,
            "expires_at": _expiry(service, resident),
            "context_length": resident.llm.context,
        }
        found.append({**listed, **running})
    return {"models": found}


@router.post("/api/show", responses=OLLAMA_ERRORS)
def show(body: ShowBody, request: Request) -> dict[str, Any]:
    """What is known of a model."""
    service: Service = request.app.state.service
    body.settle(request)
    name = service.pool.find(body.model or body.name)
    files, resident = files_of(name), service.pool.residents.get(name)
    template, defaults = files.text_side if files else ("", {})
    if resident is not None:
        template = resident.llm.chat_template.source if resident.llm.chat_template else ""
    return {
        "modelfile": f"# {name}, as whimbrel has it; whimbrel reads no modelfiles\nFROM {name}\n",
        "parameters": "\n".join(f"{key} {value}" for key, value in sorted(defaults.items()) if _is_parameter(value)),
        "template": template,
        "license": files.record.license if files and files.record else "",
        "details": files.details if files else _NO_DETAILS,
        "model_info": files.info if files else {},
        "capabilities": _capabilities(template),
        "modified_at": _modified(files, service),
    }


def _listed(name: str, files: Files | None, service: Service) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(files, service),
        "size": files.bytes if files else 0,
        "digest": files.record.sha256 if files and files.record else "",
        "details": files.details if files else _NO_DETAILS,
    }


def _capabilities(template: str) -> list[str]:
    """Tools and thinking go through the chat template."""
    has = {"completion": True, "embedding": True, "tools": bool(template), "thinking": bool(find_tags(template))}
    return [name for name, there in has.items() if there]


def _is_parameter(value: Any) -> bool:
    return isinstance(value, int | float | bool)


def _expiry(service: Service, resident: Resident) -> str:
    seconds = service.settings.keep_alive if resident.keep_alive is None else resident.keep_alive
    left = FOREVER
    if seconds is not None:
        idle = monotonic() - resident.used if not resident.users else 0.0
        left = timedelta(seconds=max(0.0, min(seconds - idle, FOREVER.total_seconds())))
    return (datetime.now(UTC) + left).isoformat()


def _modified(files: Files | None, service: Service) -> str:
    """Of a model that has no files of its own: since when it is here."""
    return (files.modified if files else datetime.fromtimestamp(service.started, UTC)).isoformat()
