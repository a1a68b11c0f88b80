"""``/api/generate``: one prompt, through the chat template or (``raw``) as it stands.

``context`` is an older way to a conversation: the ids of all that was said, which an answer brings and the next request
gives back.
"""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from whimbrel.backends.chat import MARKER
from whimbrel.backends.llm import LLM, Prompt
from whimbrel.backends.results import Completion
from whimbrel.models.chat import Message
from whimbrel.server.documented import LINES, OLLAMA_ERRORS
from whimbrel.server.errors import ApiError
from whimbrel.server.job import Job
from whimbrel.server.ollama.answers import load_only, tell
from whimbrel.server.ollama.fields import AnswerBody, AnyTypeIsJson
from whimbrel.server.service import Service
from whimbrel.server.single import open_one

router = APIRouter(route_class=AnyTypeIsJson)


class GenerateBody(AnswerBody):
    """Ollama's fields."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None
    images: list[Any] | None = None

    def check(self) -> None:
        """Raises ``ApiError`` 400 for what can't be left out without another meaning."""
        for name, advice in (("suffix", "no model here fills gaps"), ("images", "images can't be read")):
            if getattr(self, name):
                raise ApiError(400, f"{name} is not supported here: {advice}", param=name, code="unsupported")

    def left_out(self, chats: bool) -> list[str]:
        """Fields that ask for something that isn't done. ``chats``: the prompt goes through a template."""
        names = ["template"] if self.template else []
        if self.system and (self.context or not chats):
            names.append("system")
        if self.context and not chats:
            names.append("context")
        return names


@router.post("/api/generate", responses={**OLLAMA_ERRORS, **LINES})
async def generate(body: GenerateBody, request: Request) -> Response:
    """Answer a prompt; without one the model is only loaded, or with ``keep_alive`` 0 unloaded.

    More ``num_predict`` than the context has is no error.
    """
    service: Service = request.app.state.service
    since = monotonic()
    body.check()
    if not body.prompt:
        body.settle(request)
        return await load_only(request, body, _content("", "", []))
    options = body.answer_options()
    async with service.pool.use(body.model) as resident:
        llm = resident.llm
        chats = llm.chat_template is not None and not body.raw
        body.settle(request, *body.unsupported(llm.context), *body.left_out(chats))
        prompt: Prompt = body.prompt
        if chats:
            prompt = await asyncio.to_thread(_prompt, llm, body, options.get("template"))
        job = Job(prompt=prompt, model=body.model, options=options)
        answers = await open_one(request, job, to_the_end=True)
    return await tell(request, body, answers, _content, since, _context if chats else lambda _: {})


def _content(text: str, thinking: str, called: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": text, **({"thinking": thinking} if thinking else {})}


def _context(completion: Completion) -> dict[str, Any]:
    return {"context": [*completion.prompt_token_ids, *completion.token_ids]}


def _prompt(llm: LLM, body: GenerateBody, template: Mapping[str, Any] | None) -> Prompt:
    """Messages; or ids where there is a context to go on from."""
    said = {"role": "user", "content": body.prompt}
    if body.context:
        return _continued(llm, body.context, said, template)
    system: list[Message] = [{"role": "system", "content": body.system}] if body.system else []
    return [*system, said]


def _continued(
    llm: LLM, context: Sequence[int], said: Mapping[str, Any], template: Mapping[str, Any] | None
) -> list[int]:
    """The context, and what the template puts between an answer and the next one."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARKER}, said]
    _, found, rest = llm.render(turns, template).partition(MARKER)
    ids = llm.continuation_ids(rest) if found and MARKER not in rest else None
    if ids is None:
        raise ApiError(
            400, "this model can't go on from a context; send the conversation to /api/chat", param="context"
        )
    first, end = ids[:1], list(context[-1:])
    return [*context, *(ids[1:] if first == end else ids)]
