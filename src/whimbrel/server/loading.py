"""Where the server's models come from: names of the store, or paths, with a cache that many answers share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from whimbrel.backends.llm import LLM
from whimbrel.server.settings import ServerSettings
from whimbrel.zoo.plan import plan, refuse_too_large
from whimbrel.zoo.store import Store, resolve

STEP_SECONDS = 0.25
"""Longest step: a short prompt waits for the one that runs and takes part in the next, and shall begin within a second."""

CACHE_BYTES = 2 * 2**30
"""Cache of a model where nobody chose one, unless a single context needs more or memory has less."""


def usual_load(settings: ServerSettings) -> Callable[[str], LLM]:
    """A function from a name to its model. It raises what ``resolve`` and ``open_model`` raise."""

    def load(name: str) -> LLM:
        options = {"step_seconds": STEP_SECONDS, **settings.model_options}
        path = resolve(name)
        refuse_too_large(path, options.get("weights"))
        if options.get("cache_bytes") is None:
            options["cache_bytes"] = _usual_cache(path, options)
        llm = LLM(path, **options)
        llm.name = name
        return llm

    return load


def other_names() -> list[str]:
    """Models that are on this machine, and may be asked for although nobody named them on the command line."""
    return [record.name for record in Store().records()]


def _usual_cache(path: Path, options: Mapping[str, Any]) -> int:
    """Bytes for many answers that share a cache: enough for one whole context, no more than half of the free memory."""
    wanted = {
        name: options[name] for name in ("context", "weights", "kv_dtype", "attention", "sparse") if name in options
    }
    planned = plan(str(path), **wanted)
    return max(planned.cache, min(CACHE_BYTES, planned.available // 2))
