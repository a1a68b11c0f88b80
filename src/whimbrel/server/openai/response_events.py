"""How a response is told: an object that is created, items that open, grow and close, and the object complete.

Whole responses are made by the same ``Telling``, of which only the object is sent.
"""

from collections.abc import Callable, Sequence
from typing import Any

from whimbrel.backends.executor import FinishReason
from whimbrel.backends.results import Completion, Piece
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.server.blocks import Blocks, Change
from whimbrel.server.errors import Problem
from whimbrel.server.openai import wire
from whimbrel.server.openai.response_items import Item, output_id, output_item, part
from whimbrel.server.sse import event

_NAMES = {
    "reasoning": "response.reasoning_text",
    "text": "response.output_text",
    "call": "response.function_call_arguments",
}


class Telling:
    """One response while it comes."""

    def __init__(self, head: dict[str, Any], tokenizer: Tokenizer, keep: Callable[[dict[str, Any]], None]) -> None:
        """``head``: what is known of the response before it is there; ``keep`` is given the whole one."""
        self.blocks = Blocks()
        self._head = head
        self._tokenizer = tokenizer
        self._keep = keep
        self._ids: list[str] = []
        self._number = 0

    # --- the object

    def response(self, completion: Completion) -> dict[str, Any]:
        """The response, complete, and kept."""
        self.blocks.finish(some_text=True)
        cut = completion.finish_reason == FinishReason.LENGTH
        response = {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._items(cut),
            "usage": usage(completion, self.blocks.reasoning_tokens),
        }
        self._keep(response)
        return response

    def _items(self, cut: bool) -> list[Item]:
        last = len(self.blocks.all) - 1
        return [self._item(index, cut and index == last) for index in range(last + 1)]

    def _item(self, index: int, cut: bool = False) -> Item:
        block = self.blocks.all[index]
        return output_item(block, self._id(index), "incomplete" if cut else "completed", self._tokenizer)

    def _id(self, index: int) -> str:
        while len(self._ids) <= index:
            self._ids.append(output_id(self.blocks.all[len(self._ids)]))
        return self._ids[index]

    # --- the stream, a ``single.Teller``

    def begin(self) -> list[bytes]:
        """There is a response."""
        return [self._event(f"response.{name}", response=self._head) for name in ("created", "in_progress")]

    def more(self, pieces: Sequence[Piece]) -> list[bytes]:
        """What has come."""
        return [sent for change in self.blocks.take(pieces) for sent in self._tell(change)]

    def end(self, completion: Completion) -> list[bytes]:
        """The last item closes, and the response is there."""
        cut = completion.finish_reason == FinishReason.LENGTH
        events = [sent for change in self.blocks.finish(some_text=True) for sent in self._tell(change, cut)]
        response = self.response(completion)
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def failed(self, problem: Problem) -> list[bytes]:
        """Something went wrong; the response is what had come before."""
        code = "server_error" if problem.status >= 500 else "invalid_prompt"
        error = {"code": "rate_limit_exceeded" if problem.status == 429 else code, "message": problem.message}
        response = {**self._head, "status": "failed", "error": error, "output": self._items(cut=True)}
        self._keep(response)
        return [self._event("response.failed", response=response)]

    def _tell(self, change: Change, cut: bool = False) -> list[bytes]:
        where = {"item_id": self._id(change.block.index), "output_index": change.block.index}
        match change.what:
            case "begin":
                return self._open(change, where)
            case "more":
                return [self._grow(change, where)]
        return self._close(change, where, cut)

    def _open(self, change: Change, where: dict[str, Any]) -> list[bytes]:
        block, index = change.block, change.block.index
        empty = type(block)(block.kind, index, block.id, block.name)
        item = output_item(empty, self._id(index), "in_progress", self._tokenizer)
        events = [self._event("response.output_item.added", output_index=index, item=item)]
        if block.kind != "call":
            inside = part(empty, self._tokenizer)
            events.append(self._event("response.content_part.added", **where, content_index=0, part=inside))
        return events

    def _grow(self, change: Change, where: dict[str, Any]) -> bytes:
        kind = change.block.kind
        more: dict[str, Any] = {} if kind == "call" else {"content_index": 0}
        if kind == "text":
            more["logprobs"] = wire.chat_logprobs(self._tokenizer, change.logprobs)["content"]
        return self._event(f"{_NAMES[kind]}.delta", **where, **more, delta=change.text)

    def _close(self, change: Change, where: dict[str, Any], cut: bool) -> list[bytes]:
        block, done = change.block, f"{_NAMES[change.block.kind]}.done"
        if block.kind == "call":
            events = [self._event(done, **where, name=block.name, arguments=block.text)]
        else:
            inside = part(block, self._tokenizer)
            where = {**where, "content_index": 0}
            logprobs = {"logprobs": inside["logprobs"]} if block.kind == "text" else {}
            events = [
                self._event(done, **where, text=block.text, **logprobs),
                self._event("response.content_part.done", **where, part=inside),
            ]
        item = self._item(block.index, cut)
        return [*events, self._event("response.output_item.done", output_index=block.index, item=item)]

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event(kind, {"type": kind, "sequence_number": number, **fields})


def usage(completion: Completion, reasoning_tokens: int) -> dict[str, Any]:
    """Tokens, under the names that they have here."""
    used = wire.usage([completion])
    return {
        "input_tokens": used.pop("prompt_tokens"),
        "input_tokens_details": used.pop("prompt_tokens_details"),
        "output_tokens": used.pop("completion_tokens"),
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        **used,
    }
