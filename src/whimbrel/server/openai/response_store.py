"""Responses that are kept, so that a later one can go on from them. In memory: they go when the server does.

Bounded in number and bytes; what nobody has asked for longest goes first. Kept as JSON, so that bytes are what they cost.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MOST_RESPONSES = 1000
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Kept:
    """A response, and everything that was read for it."""

    response: dict[str, Any]
    inputs: list[dict[str, Any]]
    """its input items, those of the responses before it included"""


class ResponseStore:
    """Responses by id. Belongs to the event loop."""

    def __init__(self, most_responses: int = MOST_RESPONSES, most_bytes: int = MOST_BYTES) -> None:
        """How much is kept at most."""
        self._most_responses = most_responses
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self.bytes = 0
        """of all that is kept"""

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, response: dict[str, Any], inputs: list[dict[str, Any]]) -> None:
        """Keep a response, unless it is larger than all the room there is."""
        written = json.dumps([response, inputs], ensure_ascii=False, separators=(",", ":")).encode()
        self.delete(response["id"])
        if len(written) > self._most_bytes:
            return
        self._kept[response["id"]] = written
        self.bytes += len(written)
        while len(self._kept) > self._most_responses or self.bytes > self._most_bytes:
            _, gone = self._kept.popitem(last=False)
            self.bytes -= len(gone)

    def get(self, id: str) -> Kept | None:
        """A response; asked for now, so not among the next to go."""
        written = self._kept.get(id)
        if written is None:
            return None
        self._kept.move_to_end(id)
        return Kept(*json.loads(written))

    def delete(self, id: str) -> bool:
        """Forget a response; False if it isn't here."""
        written = self._kept.pop(id, None)
        self.bytes -= len(written or b"")
        return written is not None
