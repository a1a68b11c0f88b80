"""One answer to one request, which is what all dialects but OpenAI's older ones give: opened, collected, or told as it comes."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from fastapi import Request
from starlette.types import Scope

from whimbrel.backends.results import Completion, Piece
from whimbrel.errors import PromptTooLong
from whimbrel.server.blocks import Blocks
from whimbrel.server.envelope import note
from whimbrel.server.errors import Problem, problem_in_stream
from whimbrel.server.job import Answer, Job
from whimbrel.server.service import Answers, Service
from whimbrel.server.sse import while_connected


class Teller(Protocol):
    """How a dialect tells an answer, in chunks of a body."""

    def begin(self) -> Iterable[bytes]:
        """Before anything has come."""
        ...

    def more(self, pieces: Sequence[Piece]) -> Iterable[bytes]:
        """What has come."""
        ...

    def end(self, completion: Completion) -> Iterable[bytes]:
        """The rest."""
        ...

    def failed(self, problem: Problem) -> Iterable[bytes]:
        """Instead of the rest: the status is sent already, so only the body can say it."""
        ...


async def open_one(request: Request, job: Job, *, to_the_end: bool = False) -> Answers:
    """The answer of a job, to be used in an ``async with``.

    ``to_the_end``: a ``max_tokens`` for which the context has no room is no error; the answer may end with the context.
    """
    service: Service = request.app.state.service
    try:
        answers = await while_connected(request, service.open(job))
    except PromptTooLong:
        if not to_the_end or "max_tokens" not in job.options:
            raise
        options = {name: value for name, value in job.options.items() if name != "max_tokens"}
        answers = await while_connected(request, service.open(replace(job, options=options)))
    note(request.scope, model=answers[0].model)
    return answers


async def collected(request: Request, answers: Answers) -> tuple[Completion, Blocks]:
    """The whole answer."""
    blocks = Blocks()
    async with answers:
        await while_connected(request, _collect(answers[0], blocks))
        completion = answers[0].result
    note_usage(request.scope, completion)
    return completion, blocks


async def told(request: Request, answers: Answers, teller: Teller) -> AsyncGenerator[bytes]:
    """The answer as it comes; what goes wrong on the way is told too."""
    async with answers:
        try:
            for chunk in teller.begin():
                yield chunk
            async for pieces in answers[0]:
                for chunk in teller.more(pieces):
                    yield chunk
            completion = answers[0].result
        except Exception as error:  # noqa: BLE001  (only an event can say it)
            for chunk in teller.failed(problem_in_stream(error)):
                yield chunk
            return
    note_usage(request.scope, completion)
    for chunk in teller.end(completion):
        yield chunk


def note_usage(scope: Scope, completion: Completion) -> None:
    """Tokens, for the log."""
    used = completion.usage
    note(scope, prompt_tokens=used.prompt_tokens, cached_tokens=used.cached_tokens, tokens=used.completion_tokens)


async def _collect(answer: Answer, blocks: Blocks) -> None:
    async for pieces in answer:
        blocks.take(pieces)
    blocks.finish()
