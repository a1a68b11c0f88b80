"""``/v1/chat/completions``."""

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from whimbrel.backends.results import Completion, Piece, ToolCall, ToolCallPiece
from whimbrel.server.documented import ERRORS, STREAM
from whimbrel.server.envelope import note
from whimbrel.server.errors import ApiError, openai_body, problem_in_stream
from whimbrel.server.job import Answer, Job
from whimbrel.server.openai import wire
from whimbrel.server.openai.messages import for_template
from whimbrel.server.openai.sampling import Sampling
from whimbrel.server.openai.shapes import shape_of
from whimbrel.server.service import Answers, Service
from whimbrel.server.sse import DONE, EventStream, data, merged, while_connected

router = APIRouter()


class Message(BaseModel):
    """One message; what else a template understands passes through."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str
    content: str | list[Any] | None = None


class StreamOptions(BaseModel):
    """``include_usage``: a last chunk with the tokens of the request."""

    model_config = ConfigDict(extra="allow", strict=True)

    include_usage: bool | None = None


class ChatBody(Sampling):
    """OpenAI's fields, llama.cpp's ``return_progress``, and our ``passages``, ``chat_template_kwargs``."""

    no_effect: ClassVar[frozenset[str]] = frozenset(
        {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
    )

    messages: list[Message]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_progress: bool | None = None
    passages: int | None = None

    def job(self) -> Job:
        """What is asked. Raises ``ApiError`` 400."""
        messages, files = for_template([message.model_dump(exclude_unset=True) for message in self.messages])
        passages = self.passages or 0
        if passages and not files:
            raise ApiError(400, "passages are those of a document; put one into the first message", param="passages")
        return Job(
            prompt=messages,
            model=self.model,
            n=1 if self.n is None else self.n,
            options={**self.sampling(), **self._more()},
            files=files,
            passages=passages,
        )

    def _more(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.max_completion_tokens is not None:
            options["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            options["logprobs"] = self.top_logprobs or 0
        elif self.top_logprobs:
            raise ApiError(400, "top_logprobs wants logprobs=true beside it", param="top_logprobs")
        if (shape := shape_of(self.response_format)) is not None:
            options["shape"] = shape
        if self.tools:
            options["tools"] = self.tools
            options["tool_choice"] = _tool_choice(self.tool_choice)
            if self.parallel_tool_calls is not None:
                options["parallel_tool_calls"] = self.parallel_tool_calls
        elif self.tool_choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice wants tools beside it", param="tool_choice")
        if variables := self._template_variables():
            options["template"] = variables
        return options

    def _template_variables(self) -> dict[str, Any]:
        """``reasoning_effort`` "none" switches thinking off; templates know no degrees of it."""
        thinking = {"enable_thinking": False} if self.reasoning_effort in {"none", "minimal"} else {}
        return {**thinking, **(self.chat_template_kwargs or {})}

    def unsupported(self) -> list[str]:
        """Known fields that ask for something that isn't there."""
        degrees = self.reasoning_effort not in {None, "none", "minimal"}
        return ["reasoning_effort"] if degrees else []


@router.post("/v1/chat/completions", responses={**ERRORS, **STREAM})
async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    service: Service = request.app.state.service
    job = body.job()
    body.settle(request, *body.unsupported())
    answers = await while_connected(request, service.open(job))
    note(request.scope, model=answers[0].model)
    id = f"chatcmpl-{uuid.uuid4().hex}"
    if body.stream:
        return EventStream(_Chunks(body, answers, id).events(request), service.settings)
    async with answers:
        completions = await while_connected(request, answers.complete())
    _note_usage(request, completions)
    return JSONResponse(_whole(body, answers, completions, id))


def _whole(body: ChatBody, answers: Answers, completions: list[Completion], id: str) -> dict[str, Any]:
    return {
        "id": id,
        "object": "chat.completion",
        "created": answers[0].created,
        "model": answers[0].model,
        "choices": [_choice(body, answers[0], index, completion) for index, completion in enumerate(completions)],
        "usage": wire.usage(completions),
        "timings": wire.timings(completions[0]),
        "system_fingerprint": answers[0].fingerprint,
    }


def _choice(body: ChatBody, answer: Answer, index: int, completion: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["content"] = completion.text or None
        message["tool_calls"] = [_call(call) for call in completion.tool_calls]
    choice: dict[str, Any] = {
        "index": index,
        "message": message,
        "logprobs": wire.chat_logprobs(answer.tokenizer, completion.logprobs) if body.logprobs else None,
        "finish_reason": wire.finish_reason(completion),
    }
    return {**choice, **answer.read(completion)}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


class _Chunks:
    """One stream of ``chat.completion.chunk`` objects."""

    def __init__(self, body: ChatBody, answers: Answers, id: str) -> None:
        self._body = body
        self._answers = answers
        self._head = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": answers[0].created,
            "model": answers[0].model,
            "system_fingerprint": answers[0].fingerprint,
        }

    async def events(self, request: Request) -> AsyncIterator[bytes]:
        """Role, pieces, the reason of each end, usage, ``[DONE]``; an error in the middle is an event of its own."""
        async with self._answers as answers:
            for index in range(len(answers)):
                yield self._chunk(index, {"role": "assistant", "content": ""})
            try:
                async for index, pieces in merged([aiter(answer) for answer in answers]):
                    for event in self._of(index, pieces):
                        yield event
            except Exception as error:  # noqa: BLE001  (headers are sent; only an event can say it)
                yield data(openai_body(problem_in_stream(error)))
                return
            completions = [answer.result for answer in answers]
        _note_usage(request, completions)
        if self._body.stream_options and self._body.stream_options.include_usage:
            yield data({**self._head, "choices": [], "usage": wire.usage(completions)})
        yield DONE

    def _of(self, index: int, pieces: list[Piece]) -> list[bytes]:
        """Events of what has come at once: texts of several pieces go out as one."""
        answer, events = self._answers[index], []
        last = pieces[-1]
        if self._body.return_progress and not last.token_ids:
            events.append(self._chunk(index, {}, prompt_progress=wire.progress(last)))
        logprobs = [one for piece in pieces for one in piece.logprobs] if self._body.logprobs else []
        delta = _delta(pieces)
        if delta or logprobs:
            extra = {"logprobs": wire.chat_logprobs(answer.tokenizer, logprobs)} if logprobs else {}
            more = {"tokens": sum(len(piece.token_ids) for piece in pieces)} if self._body.return_progress else {}
            events.append(self._chunk(index, delta, choice=extra, **more))
        if last.finish_reason is not None:
            completion = answer.result
            choice = {"finish_reason": wire.finish_reason(completion), **answer.read(completion)}
            events.append(self._chunk(index, {}, choice=choice, timings=wire.timings(completion)))
        return events

    def _chunk(self, index: int, delta: dict[str, Any], *, choice: Mapping[str, Any] = {}, **more: Any) -> bytes:
        entry = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **choice}
        return data({**self._head, "choices": [entry], **more})


def _delta(pieces: list[Piece]) -> dict[str, Any]:
    """What pieces add, together."""
    delta: dict[str, Any] = {}
    if text := "".join(piece.text for piece in pieces):
        delta["content"] = text
    if reasoning := "".join(piece.reasoning for piece in pieces):
        delta["reasoning_content"] = reasoning
    if calls := [_call_delta(call) for piece in pieces for call in piece.tool_calls]:
        delta["tool_calls"] = calls
    return delta


def _call_delta(call: ToolCallPiece) -> dict[str, Any]:
    if not call.id:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _tool_choice(choice: str | Mapping[str, Any] | None) -> str:
    """ "auto", "none", "required" or a tool's name."""
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    name = choice.get("function", choice).get("name") if isinstance(choice.get("function", choice), Mapping) else None
    if not isinstance(name, str):
        raise ApiError(400, "tool_choice names no function", param="tool_choice")
    return name


def _note_usage(request: Request, completions: list[Completion]) -> None:
    first = completions[0].usage
    written = sum(completion.usage.completion_tokens for completion in completions)
    note(request.scope, prompt_tokens=first.prompt_tokens, cached_tokens=first.cached_tokens, tokens=written)
