"""One answer while it is written: steps in, pieces of text, thoughts and calls out.

The way of a token's bytes: whole characters, then ``AnswerReader``, which parts what is thought, said and called; what is
said goes through the stop strings. A stop string inside a thought or a call's arguments ends nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import Self
from uuid import uuid4

from whimbrel.backends.executor import FinishReason, Step, StepStream, TokenLogprob
from whimbrel.backends.results import Completion, Piece, ToolCall, ToolCallPiece
from whimbrel.backends.text import StopStrings, Utf8Stream
from whimbrel.errors import UsageError
from whimbrel.models.answer import AnswerReader
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.models.tool_calls.parse import CallPart, Event


class Stream:
    """An iterator of ``Piece``s; the last one has a ``finish_reason``. Also a context manager that ends with ``close``."""

    def __init__(
        self,
        steps: StepStream,
        tokenizer: Tokenizer,
        stops: StopStrings,
        prompt_token_ids: tuple[int, ...],
        *,
        truncated: int = 0,
        reader: AnswerReader | None = None,
    ) -> None:
        """Made by ``LLM.stream``. ``truncated``: tokens that were cut off the prompt. ``reader``: None says it all."""
        self.on_end: Callable[[Completion], None] | None = None
        """called once with the result, when the answer is complete or the stream is closed"""
        self._steps = steps
        self._tokenizer = tokenizer
        self._characters = Utf8Stream()
        self._stops = stops
        self._prompt = prompt_token_ids
        self._truncated = truncated
        self._reader = reader or AnswerReader()
        self._hidden = tokenizer.special_ids - {tokenizer.token_id(mark) for mark in self._reader.marks}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._prompt_logprobs: list[TokenLogprob] = []
        self._last: Step | None = None
        self._reason: FinishReason | None = None
        self._failed: Exception | None = None

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        """The next piece. Raises what the backend raises; the stream is over then."""
        if self._reason is not None:
            raise StopIteration
        try:
            step = next(self._steps)
        except BaseException:
            self.close()
            raise
        return self._take(step)

    def poll(self) -> Piece | None:
        """What was computed already and not taken yet, as one piece; or else None. Raises as ``__next__`` does.

        One for each step where the steps' borders matter: with stop strings, thoughts, calls and log-probabilities.
        """
        if self._reason is not None:
            return None
        try:
            step = self._poll()
        except BaseException:
            self.close()
            raise
        if step is not None:
            return self._take(step)
        if self._steps.ended:  # somebody stopped the request
            self.close()
        return None

    def _poll(self) -> Step | None:
        if self._failed is not None:
            raise self._failed
        step = self._steps.poll()
        if step is None or step.logprobs or self._reader.marks or not self._stops.none:
            return step
        steps = [step]
        try:
            while (step := self._steps.poll()) is not None:
                steps.append(step)
        except Exception as error:  # noqa: BLE001  (raised when what came before it has been taken)
            self._failed = error
        return _joined(steps)

    @property
    def pressing(self) -> bool:
        """Whether ``poll`` should not wait for further steps: nothing more will come, or the next one may be the last."""
        return not self._stops.none or self._steps.complete

    @property
    def ended(self) -> bool:
        """True once there is a ``result``: the last piece was taken, or the stream closed."""
        return self._reason is not None

    @property
    def broken_off(self) -> bool:
        """True where it was closed, or its request stopped, before its end."""
        return self._reason == FinishReason.ABORT

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """The prompt, as the model reads it."""
        return self._prompt

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Those of the prompt that were read so far; all of them once the first token has come."""
        return tuple(self._prompt_logprobs)

    def _take(self, step: Step) -> Piece:
        self._last = step
        self._ids += step.token_ids
        self._logprobs += step.logprobs
        self._prompt_logprobs += step.prompt_logprobs
        return self._piece(step, *self._read(step))

    def _read(self, step: Step) -> tuple[str, str, tuple[ToolCallPiece, ...]]:
        """What this step lets us show: text, thoughts, calls. Sets the reason where the answer ends."""
        written = step.token_ids[:-1] if step.finish_reason == FinishReason.STOP else step.token_ids
        data = b"".join(self._tokenizer.token_bytes(id) for id in written if id not in self._hidden)
        reasoning, events = self._reader.feed(self._characters.feed(data))
        reason = step.finish_reason
        if reason is not None:
            last, more = self._reader.finish()
            reasoning, events = reasoning + last, events + more
        shown = (*self._show(events, last=reason is not None), reasoning)
        self._keep(*shown)
        if self._stops.found is not None:
            reason = FinishReason.STOP
            self._steps.close()
        if reason is not None:
            self._end(reason)
        text, calls, reasoning = shown
        return text, reasoning, calls

    def _show(self, events: list[Event], *, last: bool) -> tuple[str, tuple[ToolCallPiece, ...]]:
        """Text up to a stop string, and calls before one."""
        text, calls = "", []
        for event in events:
            if self._stops.found is not None:
                break
            if isinstance(event, CallPart):
                text += self._stops.flush()  # no stop string goes on behind a call
                calls.append(self._call_piece(event))
            else:
                text += self._stops.feed(event)
        return text + (self._stops.flush() if last else ""), tuple(calls)

    def _call_piece(self, part: CallPart) -> ToolCallPiece:
        id = f"call_{uuid4().hex[:24]}" if part.name else ""
        return ToolCallPiece(index=part.index, id=id, name=part.name, arguments=part.arguments)

    def _keep(self, text: str, calls: tuple[ToolCallPiece, ...], reasoning: str) -> None:
        self._text.append(text)
        self._reasoning.append(reasoning)
        for piece in calls:
            if piece.id:
                self._calls.append(ToolCall(id=piece.id, name=piece.name, arguments=piece.arguments))
            else:
                call = self._calls[piece.index]
                self._calls[piece.index] = replace(call, arguments=call.arguments + piece.arguments)

    def _piece(self, step: Step, text: str, reasoning: str, calls: tuple[ToolCallPiece, ...]) -> Piece:
        return Piece(
            text=text,
            token_ids=step.token_ids,
            processed=step.processed,
            prompt_tokens=len(self._prompt),
            logprobs=step.logprobs,
            finish_reason=self._reason,
            reasoning=reasoning,
            tool_calls=calls,
            cached_tokens=step.usage.cached_tokens,
            prefill=step.timings.prefill,
        )

    def _end(self, reason: FinishReason) -> None:
        self._reason = reason
        if self.on_end is not None and self._last is not None:
            self.on_end(self.result)

    @property
    def text(self) -> str:
        """What has been shown so far."""
        return "".join(self._text)

    @property
    def result(self) -> Completion:
        """The answer, once the stream has ended or was closed. Raises ``UsageError`` before, or if nothing was read."""
        if self._reason is None:
            raise UsageError("the answer isn't complete; iterate the stream to its end, or close it")
        if self._last is None:
            raise UsageError("the stream was closed before its first step; there is no result")
        usage = self._last.usage
        return Completion(
            text=self.text,
            token_ids=tuple(self._ids),
            prompt_token_ids=self._prompt,
            finish_reason=self._reason,
            stop=self._stops.found,
            usage=replace(usage, truncated_tokens=self._truncated) if self._truncated else usage,
            timings=self._last.timings,
            seed=self._last.seed,
            logprobs=tuple(self._logprobs),
            prompt_logprobs=tuple(self._prompt_logprobs),
            block_mass=_shares(self._last),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(self._calls),
        )

    def drain(self) -> Completion:
        """Iterate to the end; the result."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """Stop the answer where it is. What was held back, for a stop string or a mark, is part of the result."""
        if self._reason is None:
            self._steps.close()
            reasoning, events = self._reader.finish()
            self._keep(*self._show(events, last=True), reasoning)
            self._end(FinishReason.ABORT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _joined(steps: list[Step]) -> Step:
    """Several steps as if they had been one."""
    if len(steps) == 1:
        return steps[0]
    return replace(
        steps[-1],
        token_ids=tuple(chain.from_iterable(step.token_ids for step in steps)),
        logprobs=tuple(chain.from_iterable(step.logprobs for step in steps)),
        prompt_logprobs=tuple(chain.from_iterable(step.prompt_logprobs for step in steps)),
    )


def _shares(step: Step) -> tuple[float, ...]:
    """Each block's share of the attention so far; () where it wasn't asked for, or no token came after the first."""
    if step.block_mass is None:
        return ()
    mass = step.block_mass.sum(axis=0, dtype="float64")
    total = mass.sum()
    return tuple((mass / total).tolist()) if total > 0 else ()
