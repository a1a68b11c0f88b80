"""``/v1/responses``: answers as a row of items, which the server can keep, so that the next request needn't repeat them.

A response is kept unless ``store`` is false, as long as ``ResponseStore`` has room. ``instructions`` are those of one
request; ``previous_response_id`` brings back what was said, not them.
"""

from collections.abc import Sequence
from functools import partial
from time import time
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from whimbrel.backends.llm import LLM
from whimbrel.server import calls
from whimbrel.server.documented import ERRORS, STREAM
from whimbrel.server.errors import ApiError
from whimbrel.server.fields import Body
from whimbrel.server.job import Answer, Job
from whimbrel.server.openai.response_events import Telling
from whimbrel.server.openai.response_items import Item, as_items, messages_of, new_id, with_instructions
from whimbrel.server.openai.response_store import Kept, ResponseStore
from whimbrel.server.openai.shapes import shape_of
from whimbrel.server.service import Service
from whimbrel.server.single import collected, open_one, told
from whimbrel.server.sse import EventStream

router = APIRouter()

LOGPROBS = "message.output_text.logprobs"

_SAME_NAME = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "seed")


class Part(BaseModel):
    """A part of the request; what else is in it is looked at by who uses it."""

    model_config = ConfigDict(extra="allow", strict=True)


class Text(Part):
    """``format``: the shape of the answer."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class Reasoning(Part):
    """``effort`` "none" or "minimal" switches thinking off; templates know no degrees of it."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseBody(Body):
    """OpenAI's fields, and our sampling parameters."""

    no_effect: ClassVar[frozenset[str]] = frozenset(
        {"user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "stream_options"}
    )

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    max_output_tokens: int | None = None
    truncation: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    background: bool | None = None
    conversation: Any = None

    def check(self) -> None:
        """Raises ``ApiError`` 400 for what can't be left out without another meaning."""
        if self.background:
            raise _unsupported("background", "ask without it, and wait for the answer or stream it")
        if self.conversation is not None:
            raise _unsupported("conversation", "previous_response_id goes on from a response")
        if self.truncation not in (None, "disabled", "auto"):
            raise ApiError(400, f"truncation is {self.truncation!r}; there are disabled, auto", param="truncation")

    def job(self, items: Sequence[Item], first: int) -> Job:
        """What is asked of these items, of which the request's own are numbered from ``-first``. Raises ``ApiError`` 400."""
        messages, files = messages_of(items, first)
        return Job(
            prompt=with_instructions(messages, self.instructions),
            model=self.model,
            options={**self.sampling(), **self._more(), **self._tools()},
            files=files,
            shape_field="text.format",
        )

    def sampling(self) -> dict[str, Any]:
        """Options of ``SamplingParams``."""
        options = {name: value for name in _SAME_NAME if (value := getattr(self, name)) is not None}
        if self.max_output_tokens is not None:
            options["max_tokens"] = self.max_output_tokens
        if self.top_logprobs is not None or LOGPROBS in (self.include or ()):
            options["logprobs"] = self.top_logprobs or 0
        return options

    def _more(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.text is not None and (shape := shape_of(self.text.format, "text.format")) is not None:
            options["shape"] = shape
        if self.reasoning is not None and self.reasoning.effort in {"none", "minimal"}:
            options["template"] = {"enable_thinking": False}
        if self.truncation == "auto":
            options["overflow"] = "truncate"
        return options

    def _tools(self) -> dict[str, Any]:
        if not self.tools:
            if self.tool_choice not in (None, "none", "auto"):
                raise ApiError(400, "tool_choice wants tools beside it", param="tool_choice")
            return {}
        options: dict[str, Any] = {
            "tools": [_tool(tool, index) for index, tool in enumerate(self.tools)],
            "tool_choice": _tool_choice(self.tool_choice),
        }
        if self.parallel_tool_calls is not None:
            options["parallel_tool_calls"] = self.parallel_tool_calls
        return options

    def unsupported(self) -> list[str]:
        """Known fields that ask for something that isn't there."""
        names = [f"include.{name}" for name in self.include or () if name != LOGPROBS]
        if self.text is not None and self.text.verbosity is not None:
            names.append("text.verbosity")
        if self.reasoning is not None:
            if self.reasoning.effort not in {None, "none", "minimal"}:
                names.append("reasoning.effort")
            if self.reasoning.summary is not None or self.reasoning.generate_summary is not None:
                names.append("reasoning.summary")
        return names


@router.post("/v1/responses", responses={**ERRORS, **STREAM})
async def create_response(body: ResponseBody, request: Request) -> Response:
    """Answer a text, or items, after those of an earlier response; whole or as server-sent events."""
    service: Service = request.app.state.service
    body.check()
    before = _before(_store(request), body.previous_response_id)
    own = as_items(body.input)
    inputs = [*before, *own]
    job = body.job(inputs, -len(before))
    body.settle(request, *body.unsupported())
    answers = await open_one(request, job)
    telling = Telling(_head(body, answers[0]), answers[0].tokenizer, partial(_keep, request, body, inputs))
    if body.stream:
        return EventStream(told(request, answers, telling), service.settings)
    completion, telling.blocks = await collected(request, answers)
    return JSONResponse(telling.response(completion))


@router.get("/v1/responses/{id}", responses=ERRORS)
async def retrieve_response(id: str, request: Request, stream: bool = False) -> Response:
    """A response that was kept."""
    if stream:
        raise _unsupported("stream", "a response is kept whole; fetch it without")
    return JSONResponse(_kept(request, id).response)


@router.delete("/v1/responses/{id}", responses=ERRORS)
async def delete_response(id: str, request: Request) -> dict[str, Any]:
    """Forget a response."""
    if not _store(request).delete(id):
        raise _missing(id, 404)
    return {"id": id, "object": "response", "deleted": True}


@router.get("/v1/responses/{id}/input_items", responses=ERRORS)
async def list_input_items(
    id: str,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: str = "desc",
    after: str | None = None,
) -> dict[str, Any]:
    """What a response was made from, items of the responses before it included; the newest first unless ``order=asc``."""
    items = _kept(request, id).inputs
    if order not in ("asc", "desc"):
        raise ApiError(400, f"order is {order!r}; there are asc, desc", param="order")
    items = items if order == "asc" else items[::-1]
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiError(400, f"there is no item {after!r} in this response", param="after")
        items = items[places[0] + 1 :]
    shown = items[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > len(shown),
    }


# --- what is kept


def _store(request: Request) -> ResponseStore:
    store: ResponseStore = request.app.state.responses
    return store


def _kept(request: Request, id: str) -> Kept:
    kept = _store(request).get(id)
    if kept is None:
        raise _missing(id, 404)
    return kept


def _before(store: ResponseStore, id: str | None) -> list[Item]:
    """Everything that was read and written up to a response."""
    if id is None:
        return []
    kept = store.get(id)
    if kept is None:
        raise _missing(id, 400, param="previous_response_id", code="previous_response_not_found")
    return [*kept.inputs, *kept.response["output"]]


def _keep(request: Request, body: ResponseBody, inputs: list[Item], response: dict[str, Any]) -> None:
    if body.store is not False:
        _store(request).put(response, inputs)


def _missing(id: str, status: int, **fields: Any) -> ApiError:
    return ApiError(
        status,
        f"there is no response {id!r} here; it was deleted, or not stored, or made place for newer ones, or the server "
        "was started anew; give the whole conversation as input",
        **fields,
    )


def _unsupported(name: str, advice: str) -> ApiError:
    return ApiError(400, f"{name} is not supported here; {advice}", param=name, code="unsupported")


# --- the object


def _head(body: ResponseBody, answer: Answer) -> dict[str, Any]:
    """A response before it is there."""
    llm: LLM = answer.resident.llm
    params = llm.sampling_params(**body.sampling())
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": answer.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": body.store is not False,
        "temperature": params.temperature,
        "text": {"format": (body.text and body.text.format) or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
    }


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise ApiError(
            400,
            f"tools[{index}]: tools of type {kind!r} are not here; describe what there is as a function",
            param=f"tools[{index}].type",
            code="unsupported",
        )
    return calls.tool(tool.get("name"), tool.get("description"), tool.get("parameters"), tool.get("strict"))


def _tool_choice(choice: str | dict[str, Any] | None) -> str:
    """ "auto", "none", "required" or a tool's name."""
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    name = choice.get("name")
    if choice.get("type") != "function" or not isinstance(name, str):
        raise ApiError(400, "tool_choice is none, auto, required, or a function with its name", param="tool_choice")
    return name
