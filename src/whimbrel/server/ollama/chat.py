"""``/api/chat``."""

import json
from collections.abc import Sequence
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from whimbrel.server import calls
from whimbrel.server.documented import LINES, OLLAMA_ERRORS
from whimbrel.server.errors import ApiError
from whimbrel.server.job import Job
from whimbrel.server.ollama.answers import load_only, tell
from whimbrel.server.ollama.fields import AnswerBody, AnyTypeIsJson, Part
from whimbrel.server.openai.messages import for_template
from whimbrel.server.service import Service
from whimbrel.server.single import open_one

router = APIRouter(route_class=AnyTypeIsJson)


class Message(Part):
    """A turn; ``tool_calls`` have objects as arguments here."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatBody(AnswerBody):
    """Ollama's fields."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None

    def job(self) -> Job:
        """What is asked. Raises ``ApiError`` 400."""
        options = self.answer_options()
        if self.tools:
            options["tools"] = self.tools
        messages, files = for_template(_messages(self.messages or ()))
        return Job(prompt=messages, model=self.model, options=options, files=files)


@router.post("/api/chat", responses={**OLLAMA_ERRORS, **LINES})
async def chat(body: ChatBody, request: Request) -> Response:
    """Answer a conversation. Without messages the model is only loaded, or with ``keep_alive`` 0 unloaded."""
    service: Service = request.app.state.service
    since = monotonic()
    if not body.messages:
        body.settle(request)
        return await load_only(request, body, _content("", "", []))
    job = body.job()
    async with service.pool.use(body.model) as resident:
        body.settle(request, *body.unsupported(resident.llm.context))
        answers = await open_one(request, job, to_the_end=True)
    return await tell(request, body, answers, _content, since)


def _content(text: str, thinking: str, called: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if called:
        message["tool_calls"] = called
    return {"message": message}


def _messages(given: Sequence[Message]) -> list[dict[str, Any]]:
    """As OpenAI's chat API has them. Results of tools belong to the calls before them, in their order."""
    messages: list[dict[str, Any]] = []
    waiting: list[str] = []
    for index, message in enumerate(given):
        if message.images:
            raise ApiError(400, f"messages[{index}]: images can't be read here", param="images", code="unsupported")
        turn: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.thinking:
            turn["reasoning_content"] = message.thinking
        if message.tool_calls:
            turn["tool_calls"] = [_call(call, index, number) for number, call in enumerate(message.tool_calls)]
            waiting = [call["id"] for call in turn["tool_calls"]]
        if message.role == "tool":
            turn["tool_call_id"] = message.tool_call_id or (waiting.pop(0) if waiting else f"call_{index}")
            if message.tool_name:
                turn["name"] = message.tool_name
        messages.append(turn)
    return messages


def _call(call: dict[str, Any], index: int, number: int) -> dict[str, Any]:
    match call:
        case {"function": {"name": str(name), "arguments": dict(arguments)}}:
            id = call.get("id")
            id = id if isinstance(id, str) and id else f"call_{index}_{number}"
            return calls.call(id, name, json.dumps(arguments, ensure_ascii=False))
    place = f"messages[{index}].tool_calls[{number}]"
    raise ApiError(400, f"{place} is no call; give a function with its name and an object of arguments", param=place)
