"""Metrics: counters and gauges of the server, for Prometheus."""

from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from whimbrel import hardware
from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.server.job import Answer
    from whimbrel.server.service import Service

RATE_SECONDS = 60.0

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


class Metrics:
    """One registry per server, so that two in a process don't mix."""

    def __init__(self, service: "Service") -> None:
        """Gauges are read from ``service`` when somebody asks."""
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("whimbrel_requests", "HTTP requests answered", ["path", "status"], **options)
        self._answers = Counter("whimbrel_answers", "Answers ended", ["model", "reason"], **options)
        self._prompt = Counter("whimbrel_prompt_tokens", "Tokens of prompts", ["model"], **options)
        self._cached = Counter("whimbrel_cached_tokens", "Of these, served by the cache", ["model"], **options)
        self._written = Counter("whimbrel_completion_tokens", "Tokens written", ["model"], **options)
        self._first = Histogram(
            "whimbrel_first_token_seconds", "From request to first token", ["model"], buckets=_SECONDS, **options
        )
        self._each = Histogram(
            "whimbrel_token_seconds",
            "Mean time of an answer's further tokens",
            ["model"],
            buckets=_TOKEN_SECONDS,
            **options,
        )
        self._registry.register(_Gauges(service))
        self._recent: deque[tuple[float, int]] = deque(maxlen=256)

    def note(self, answer: "Answer") -> None:
        """Count an answer that has ended."""
        try:
            completion = answer.result
        except UsageError:  # stopped before its first step, or in the middle
            self._answers.labels(answer.model, "abort").inc()
            return
        usage, timings = completion.usage, completion.timings
        self._answers.labels(answer.model, str(completion.finish_reason)).inc()
        self._prompt.labels(answer.model).inc(usage.prompt_tokens)
        self._cached.labels(answer.model).inc(usage.cached_tokens)
        self._written.labels(answer.model).inc(usage.completion_tokens)
        self._recent.append((monotonic(), usage.completion_tokens))
        if usage.completion_tokens:
            self._first.labels(answer.model).observe(timings.queue + timings.prefill)
        if usage.completion_tokens > 1:
            self._each.labels(answer.model).observe(timings.decode / (usage.completion_tokens - 1))

    def rate(self) -> float:
        """Tokens a second that the answers of the last minute had, together."""
        since = monotonic() - RATE_SECONDS
        return sum(tokens for at, tokens in list(self._recent) if at >= since) / RATE_SECONDS

    def text(self) -> bytes:
        """The exposition format. Waits for the engines' locks, so not to be called on the event loop."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    """What is now, read from the engines."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        memory = hardware.memory()
        yield GaugeMetricFamily("whimbrel_available_memory_bytes", "Memory that is free", value=memory.available)
        yield GaugeMetricFamily("whimbrel_open_answers", "Answers that run or wait", value=self._service.open_answers)
        gauges = {
            "running": "Sequences that run",
            "waiting": "Sequences that wait for a place",
            "blocks": "Blocks of 64 tokens in the cache",
            "blocks_used": "Of these, held by running sequences",
            "blocks_idle": "Free ones whose contents can still be shared",
            "cache_bytes": "Bytes of the cache",
            "preemptions": "Sequences that had to give their blocks back, so far",
        }
        families = {
            name: GaugeMetricFamily(f"whimbrel_{name}", text, labels=["model"]) for name, text in gauges.items()
        }
        for model, stats in self._service.stats().items():
            for name, family in families.items():
                family.add_metric([model], getattr(stats, name))
        yield from families.values()
