"""``/v1/completions``: going on with a text. ``echo`` with ``logprobs`` scores the prompt, as evaluations want it."""

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from whimbrel.backends.executor import TokenLogprob
from whimbrel.backends.results import Completion, Piece
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.server.documented import ERRORS, STREAM
from whimbrel.server.envelope import note
from whimbrel.server.errors import ApiError, openai_body, problem_in_stream
from whimbrel.server.job import Answer, Job
from whimbrel.server.openai import wire
from whimbrel.server.openai.chat import StreamOptions
from whimbrel.server.openai.sampling import Sampling
from whimbrel.server.openai.shapes import shape_of
from whimbrel.server.service import Answers, Service
from whimbrel.server.sse import DONE, EventStream, data, merged, while_connected

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for this route."""

MOST_PROMPTS = 2048


class CompletionBody(Sampling):
    """OpenAI's fields. ``suffix`` and ``best_of`` > n are not supported."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"user"})

    prompt: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    best_of: int | None = None
    response_format: dict[str, Any] | None = None

    def prompts(self) -> list[str | list[int]]:
        """One or several. Raises ``ApiError`` 400 for none, or too many."""
        prompt = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        if not 1 <= len(prompt) <= MOST_PROMPTS:
            raise ApiError(400, f"{len(prompt)} prompts; give 1 to {MOST_PROMPTS} in a request", param="prompt")
        return list(prompt)  # type: ignore[arg-type]

    def jobs(self) -> list[Job]:
        """One for each prompt."""
        options = {"max_tokens": DEFAULT_MAX_TOKENS, **self.sampling()}
        if self.logprobs is not None:
            options["logprobs"] = self.logprobs
            if self.echo:
                options["prompt_logprobs"] = self.logprobs
        if (shape := shape_of(self.response_format)) is not None:
            options["shape"] = shape
        n = 1 if self.n is None else self.n
        return [Job(prompt=prompt, model=self.model, n=n, options=options) for prompt in self.prompts()]

    def unsupported(self) -> list[str]:
        """Known fields that ask for something that isn't there."""
        names = ["suffix"] if self.suffix else []
        if self.best_of is not None and self.best_of != (self.n or 1):
            names.append("best_of")
        return names


@router.post("/v1/completions", responses={**ERRORS, **STREAM})
async def completions(body: CompletionBody, request: Request) -> Response:
    """Go on with a text, whole or as server-sent events."""
    service: Service = request.app.state.service
    jobs = body.jobs()
    body.settle(request, *body.unsupported())
    id = f"cmpl-{uuid.uuid4().hex}"
    if body.stream:
        answers = await while_connected(request, service.open(*jobs))
        note(request.scope, model=answers[0].model)
        return EventStream(_events(body, answers, id), service.settings)
    async with await while_connected(request, service.open(*jobs)) as answers:
        note(request.scope, model=answers[0].model)
        done = await while_connected(request, answers.complete())
    return JSONResponse(_whole(body, answers, done, id))


def _whole(body: CompletionBody, answers: Answers, done: list[Completion], id: str) -> dict[str, Any]:
    choices = [
        _choice(body, answer, index, completion)
        for index, (answer, completion) in enumerate(zip(answers, done, strict=True))
    ]
    n = len(done) // len(body.prompts())
    usages = [wire.usage(done[first : first + n]) for first in range(0, len(done), n)]
    return {
        "id": id,
        "object": "text_completion",
        "created": answers[0].created,
        "model": answers[0].model,
        "choices": choices,
        "usage": _sum(usages),
        "timings": wire.timings(done[0]),
        "system_fingerprint": answers[0].fingerprint,
    }


def _sum(usages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(usages) == 1:
        return usages[0]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    return {
        **{name: sum(usage[name] for usage in usages) for name in names},
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _choice(body: CompletionBody, answer: Answer, index: int, completion: Completion) -> dict[str, Any]:
    text = (_prompt_text(answer) if body.echo else "") + completion.text
    return {
        "index": index,
        "text": text,
        "logprobs": _logprobs(body, answer.tokenizer, completion),
        "finish_reason": wire.finish_reason(completion),
    }


def _prompt_text(answer: Answer) -> str:
    return answer.tokenizer.decode(answer.flow.stream.prompt_token_ids, skip_special=True)


def _logprobs(body: CompletionBody, tokenizer: Tokenizer, completion: Completion) -> dict[str, Any] | None:
    """The old shape: parallel lists. The prompt's first token has no log-probability."""
    if body.logprobs is None:
        return None
    lists = _Lists(tokenizer, body.logprobs)
    if body.echo:
        lists.add_prompt(completion.prompt_token_ids, completion.prompt_logprobs)
    for one in completion.logprobs:
        lists.add(one.token_id, one)
    return lists.as_json()


class _Lists:
    """``tokens``, ``token_logprobs``, ``top_logprobs``, ``text_offset`` while they grow."""

    def __init__(self, tokenizer: Tokenizer, top: int, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._tops: list[dict[str, float] | None] = []
        self._offsets: list[int] = []
        self.offset = offset

    def add_prompt(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> None:
        """All tokens of a prompt; nothing stands before the first, so it has no log-probability."""
        self.add(ids[0], None)
        for one in logprobs:
            self.add(one.token_id, one)

    def add(self, id: int, one: TokenLogprob | None) -> None:
        """One token."""
        text = self._text(id)
        self._tokens.append(text)
        self._logprobs.append(None if one is None else one.logprob)
        self._offsets.append(self.offset)
        self.offset += 0 if id in self._tokenizer.special_ids else len(text)
        top = {} if one is None else {self._text(id): logprob for id, logprob in one.top}
        if one is not None and self._top:
            top.setdefault(text, one.logprob)
        self._tops.append(None if one is None else top)

    def as_json(self) -> dict[str, Any]:
        """The four lists; ``top_logprobs`` is null where none were asked for."""
        return {
            "tokens": self._tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._tops if self._top else None,
            "text_offset": self._offsets,
        }

    def _text(self, id: int) -> str:
        return self._tokenizer.token_bytes(id).decode("utf-8", "replace")


async def _events(body: CompletionBody, answers: Answers, id: str) -> AsyncIterator[bytes]:
    head = {"id": id, "object": "text_completion", "created": answers[0].created, "model": answers[0].model}
    offsets: list[int | None] = [None] * len(answers)
    async with answers:
        try:
            async for index, pieces in merged([aiter(answer) for answer in answers]):
                if event := _chunk(body, answers[index], index, pieces, offsets):
                    yield data({**head, "choices": [event]})
        except Exception as error:  # noqa: BLE001  (headers are sent; only an event can say it)
            yield data(openai_body(problem_in_stream(error)))
            return
        done = [answer.result for answer in answers]
    if body.stream_options and body.stream_options.include_usage:
        n = len(done) // len(body.prompts())
        yield data(
            {**head, "choices": [], "usage": _sum([wire.usage(done[at : at + n]) for at in range(0, len(done), n)])}
        )
    yield DONE


def _chunk(
    body: CompletionBody, answer: Answer, index: int, pieces: list[Piece], offsets: list[int | None]
) -> dict[str, Any] | None:
    """One choice of a chunk; None while the prompt is being read. The echo comes with the first token.

    ``offsets``: characters that each choice's ``text_offset`` has counted; None before its first chunk.
    """
    text, logprobs = "".join(piece.text for piece in pieces), None
    ended = pieces[-1].finish_reason is not None
    if not (ended or any(piece.token_ids for piece in pieces)):
        return None
    offset = offsets[index]
    echoed = bool(body.echo) and offset is None
    if echoed:
        text = _prompt_text(answer) + text
    tokens = [one for piece in pieces for one in piece.logprobs]
    lists = _Lists(answer.tokenizer, body.logprobs or 0, offset or 0)
    if body.logprobs is not None and (tokens or echoed):
        if echoed:
            lists.add_prompt(answer.flow.stream.prompt_token_ids, answer.flow.stream.prompt_logprobs)
        for one in tokens:
            lists.add(one.token_id, one)
        logprobs = lists.as_json()
    offsets[index] = lists.offset
    if not (text or logprobs or ended):
        return None
    reason = wire.finish_reason(answer.result) if ended else None
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
