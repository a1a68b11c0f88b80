"""What each step did and how long its parts took: a ring of spans, cheap enough to be always on.

Times are seconds of ``time.perf_counter``. Measured: one record costs under a microsecond.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from whimbrel.attention.keys import KeyCount


@dataclass(frozen=True, slots=True)
class StepSpan:
    """One step of the engine."""

    started: float
    plan: float
    """seconds, as the next three"""
    run: float
    sample: float
    commit: float
    sequences: int
    tokens: int
    keys: KeyCount
    """that the step's tokens saw"""


class Trace:
    """The latest steps."""

    def __init__(self, capacity: int = 4096) -> None:
        """Keeps ``capacity`` steps."""
        self.spans: deque[StepSpan] = deque(maxlen=capacity)

    def record(
        self, marks: tuple[float, float, float, float, float], sequences: int, tokens: int, keys: KeyCount
    ) -> None:
        """Note a step: when it began, and when plan, run, sample and commit ended."""
        start, planned, ran, sampled, committed = marks
        self.spans.append(
            StepSpan(start, planned - start, ran - planned, sampled - ran, committed - sampled, sequences, tokens, keys)
        )

    def events(self) -> list[dict[str, Any]]:
        """The spans in the Trace Event Format that browsers' and Perfetto's viewers read; times in microseconds."""
        events = []
        for span in self.spans:
            at = span.started
            for name in ("plan", "run", "sample", "commit"):
                seconds = getattr(span, name)
                arguments = {"sequences": span.sequences, "tokens": span.tokens, "sparsity": span.keys.sparsity}
                event = {"name": name, "ph": "X", "ts": at * 1e6, "dur": seconds * 1e6, "pid": 0, "tid": 0}
                events.append(event | {"args": arguments})
                at += seconds
        return events
