"""MappedPages: keeps documents on disk from becoming this process's memory, block by block.

Pages of a mapped file that were touched stay in the process until somebody lets go of them; the system itself does so
only when memory is short. A question of 150 tokens may choose most blocks of a document in one layer or another, and
with 64 KiB (Linux 6.18: up to 2 MiB) mapped around each fault that is all of 1.6 GB. Letting go costs no reading: pages
stay in the system's page cache, and come back by a fault. So it is done when more than ``LIMIT`` is mapped, looked at
after each layer (24 looks cost 0.1 ms).
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from whimbrel import hardware
from whimbrel.ops.table import OpTable

LIMIT = 512 << 20
"""Bytes. The weights of a 0.5B model in q4 are 350 MB, and both stay below 1 GiB; a decoded token chooses 75 MB. It costs:
where every token chooses other blocks (random keys) decoding at 128K takes 65 ms of processor time instead of 45."""


class MappedPages:
    """The files that are mapped, and when to let go of their pages."""

    def __init__(self, limit: int = LIMIT) -> None:
        """``limit``: bytes of all mapped files of this process."""
        self.limit = limit
        self._forget: dict[Hashable, Callable[[], None]] = {}

    def add(self, key: Hashable, forget: Callable[[], None]) -> None:
        """``forget`` lets go of the pages of one document."""
        self._forget[key] = forget

    def remove(self, key: Hashable) -> None:
        """The document is gone."""
        self._forget.pop(key, None)

    def watched(self, ops: OpTable) -> OpTable:
        """The same ops, with a look at memory after attending."""
        attend = ops.attend

        def watched_attend(q: Any, inputs: Any, cache: Any, layer: int, **options: Any) -> Any:
            out = attend(q, inputs, cache, layer, **options)
            if self._forget:
                self.trim()
            return out

        return replace(ops, attend=watched_attend)

    def trim(self) -> None:
        """Let go of everything if too much is mapped."""
        if hardware.mapped_bytes() > self.limit:
            for forget in self._forget.values():
                forget()
