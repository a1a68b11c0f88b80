"""``/v1/messages`` and ``/v1/messages/count_tokens``."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from whimbrel.backends.document import Document
from whimbrel.backends.llm import LLM
from whimbrel.backends.shape import JsonSchema
from whimbrel.server import calls
from whimbrel.server.anthropic.content import messages_of
from whimbrel.server.anthropic.events import PING, Telling
from whimbrel.server.documented import ANTHROPIC_ERRORS, STREAM
from whimbrel.server.errors import ApiError
from whimbrel.server.fields import Body
from whimbrel.server.job import Job
from whimbrel.server.openai.sampling import checked_stops
from whimbrel.server.service import Service
from whimbrel.server.single import collected, open_one, told
from whimbrel.server.sse import EventStream

router = APIRouter()

THINKING = {"enabled": True, "adaptive": True, "disabled": False}


class Part(BaseModel):
    """A part of the request; what else is in it is looked at by who uses it."""

    model_config = ConfigDict(extra="allow", strict=True)


class Message(Part):
    """A turn."""

    role: str
    content: str | list[Any]


class ToolChoice(Part):
    """``auto``, ``any``, ``none``, or ``tool`` with a name."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Part):
    """Whether a model that can think does; ``budget_tokens`` is not kept to."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputConfig(Part):
    """``format``: a schema that the answer's text keeps to."""

    format: dict[str, Any] | None = None
    effort: str | None = None


class PromptBody(Body):
    """What a prompt is made of."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"cache_control", "metadata", "service_tier"})

    messages: list[Message]
    model: str | None = None
    system: str | list[Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    def job(self) -> Job:
        """What is asked. Raises ``ApiError`` 400."""
        messages, files = messages_of(self.system, [message.model_dump() for message in self.messages])
        return Job(prompt=messages, model=self.model, options=self.options(), files=files)

    def options(self) -> dict[str, Any]:
        """Options of ``LLM.stream``."""
        options = {**self._tools(), **self._shape()}
        if self.thinking is not None:
            if self.thinking.type not in THINKING:
                raise _unknown("thinking.type", self.thinking.type, THINKING)
            options["template"] = {"enable_thinking": THINKING[self.thinking.type]}
        return options

    def _tools(self) -> dict[str, Any]:
        choice = self.tool_choice
        if not self.tools:
            if choice is not None and choice.type not in {"auto", "none"}:
                raise ApiError(400, "tool_choice wants tools beside it", param="tool_choice")
            return {}
        options: dict[str, Any] = {"tools": [_tool(tool, index) for index, tool in enumerate(self.tools)]}
        if choice is not None:
            options["tool_choice"] = _choice(choice)
            options["parallel_tool_calls"] = not choice.disable_parallel_tool_use
        return options

    def _shape(self) -> dict[str, Any]:
        match self.output_config and self.output_config.format:
            case None:
                return {}
            case {"type": "json_schema", "schema": dict(schema)}:
                return {"shape": JsonSchema(schema)}
        raise ApiError(
            400, 'output_config.format is {"type": "json_schema", "schema": {...}}', param="output_config.format"
        )

    def unsupported(self) -> Iterator[str]:
        """Known fields that ask for something that isn't there."""
        if self.thinking is not None:
            if self.thinking.budget_tokens is not None:
                yield "thinking.budget_tokens"
            if self.thinking.display == "omitted":
                yield "thinking.display"
        if self.output_config is not None and self.output_config.effort is not None:
            yield "output_config.effort"
        blocks = [block for message in self.messages for block in message.content if isinstance(block, dict)]
        if any(block.get("type") == "redacted_thinking" for block in blocks):
            yield "redacted_thinking"
        if any(isinstance(cited := block.get("citations"), dict) and cited.get("enabled") for block in blocks):
            yield "citations"


class MessagesBody(PromptBody):
    """Anthropic's fields."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def options(self) -> dict[str, Any]:
        """Options of ``LLM.stream``."""
        names = ("temperature", "top_p", "top_k")
        sampling = {name: value for name in names if (value := getattr(self, name)) is not None}
        stop = {"stop": checked_stops(self.stop_sequences, "stop_sequences")} if self.stop_sequences else {}
        return {"max_tokens": self.max_tokens, **sampling, **stop, **super().options()}


@router.post("/v1/messages", responses={**ANTHROPIC_ERRORS, **STREAM})
async def create_message(body: MessagesBody, request: Request) -> Response:
    """Answer a conversation, whole or as server-sent events. More ``max_tokens`` than the context has are no error."""
    service: Service = request.app.state.service
    job = body.job()
    body.settle(request, *body.unsupported())
    answers = await open_one(request, job, to_the_end=True)
    telling = Telling(f"msg_{uuid.uuid4().hex}", answers[0].model, body.max_tokens)
    if body.stream:
        return EventStream(told(request, answers, telling), service.settings, ping=PING)
    completion, blocks = await collected(request, answers)
    return JSONResponse(telling.whole(completion, blocks))


@router.post("/v1/messages/count_tokens", responses=ANTHROPIC_ERRORS)
async def count_tokens(body: PromptBody, request: Request) -> dict[str, int]:
    """How many tokens a prompt has, system text and tools included."""
    service: Service = request.app.state.service
    job = body.job()
    body.settle(request, *body.unsupported())
    async with service.pool.use(job.model) as resident:
        if not job.files:
            return {"input_tokens": await asyncio.to_thread(_count, resident.llm, job, None)}
        async with service.files.attached(resident, job.files) as document:
            return {"input_tokens": await asyncio.to_thread(_count, resident.llm, job, document)}


def _count(llm: LLM, job: Job, document: Document | None) -> int:
    """As many tokens as ``LLM.stream`` would read."""
    return len(llm.prompt_ids(job.prompt, job.options.get("template"), job.options.get("tools", ()), document))


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise ApiError(
            400,
            f"tools[{index}]: tools of type {tool['type']!r} are not here; describe what there is by an input_schema",
            param=f"tools[{index}].type",
            code="unsupported",
        )
    return calls.tool(tool.get("name"), tool.get("description"), tool.get("input_schema"), tool.get("strict"))


def _choice(choice: ToolChoice) -> str:
    """As ``LLM.stream`` has it."""
    words = {"auto": "auto", "any": "required", "none": "none", "tool": choice.name}
    if choice.type not in words:
        raise _unknown("tool_choice.type", choice.type, words)
    word = words[choice.type]
    if not word:
        raise ApiError(400, "tool_choice names no tool", param="tool_choice.name")
    return word


def _unknown(place: str, given: str, known: Any) -> ApiError:
    return ApiError(400, f"{place} is {given!r}; there are {', '.join(known)}", param=place)
