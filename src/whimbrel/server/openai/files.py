"""``/v1/files``: documents that are read once, and then asked in any conversation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response

from whimbrel.server.documented import ERRORS
from whimbrel.server.fields import note_ignored
from whimbrel.server.files import File
from whimbrel.server.service import Service
from whimbrel.server.sse import EventStream, data

router = APIRouter()

LOOK_SECONDS = 0.2
"""Between two looks at a document that is being read, for its events."""

_KNOWN_FIELDS = {"file", "purpose", "model"}


@router.post("/v1/files", responses=ERRORS)
async def create_file(
    request: Request,
    file: UploadFile,
    purpose: Annotated[str, Form()] = "user_data",
    model: Annotated[str | None, Form()] = None,
) -> dict[str, Any]:
    """Keep a document, and begin to read it; ``GET`` it, or its events, to see how far that is."""
    service: Service = request.app.state.service
    form = await request.form()
    note_ignored(request, [name for name in form if name not in _KNOWN_FIELDS])
    kept = await service.files.add(file, purpose=purpose, model=model)
    return kept.described()


@router.get("/v1/files", responses=ERRORS)
async def list_files(request: Request, purpose: str | None = None) -> dict[str, Any]:
    """All documents, the newest first."""
    service: Service = request.app.state.service
    found = [file.described() for file in service.files.all() if purpose in (None, file.purpose)]
    ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {}
    return {"object": "list", "data": found, "has_more": False, **ends}


@router.get("/v1/files/{id}", responses=ERRORS)
async def retrieve_file(id: str, request: Request) -> dict[str, Any]:
    """One document."""
    service: Service = request.app.state.service
    return service.files.get(id).described()


@router.delete("/v1/files/{id}", responses=ERRORS)
async def delete_file(id: str, request: Request) -> dict[str, Any]:
    """Forget a document; reading it stops."""
    service: Service = request.app.state.service
    await service.files.delete(id)
    return {"id": id, "object": "file", "deleted": True}


@router.get("/v1/files/{id}/content", responses={**ERRORS, 200: {"content": {"application/octet-stream": {}}}})
async def file_content(id: str, request: Request) -> Response:
    """The document as it came."""
    service: Service = request.app.state.service
    file = service.files.get(id)
    return FileResponse(service.files.source(file), media_type="application/octet-stream", filename=file.filename)


@router.get("/v1/files/{id}/text", responses={**ERRORS, 200: {"content": {"text/plain": {}}}})
async def file_text(id: str, request: Request) -> Response:
    """The document's text; passages count its characters (code points)."""
    service: Service = request.app.state.service
    return PlainTextResponse(await service.files.text(service.files.get(id)))


@router.get("/v1/files/{id}/events", responses={**ERRORS, 200: {"content": {"text/event-stream": {}}}})
async def file_events(id: str, request: Request) -> Response:
    """How far the document has been read, until it is."""
    service: Service = request.app.state.service
    return EventStream(_events(service, service.files.get(id)), service.settings)


async def _events(service: Service, file: File) -> AsyncIterator[bytes]:
    """Until it is read, or deleted, or the server stops: which waits for no stream that tells of work it gives up."""
    told: dict[str, Any] = {}
    while not (file.deleted or service.stopping):
        now = file.progress()
        if now != told:
            told = now
            yield data(now)
        if file.status != "processing":
            return
        await asyncio.sleep(LOOK_SECONDS)
