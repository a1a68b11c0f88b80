"""Where the server's models come from: names of the store, or paths, with a cache that many answers share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from whimbrel.backends.llm import LLM
from whimbrel.engine.limits import at_least_one
from whimbrel.server.settings import ServerSettings
from whimbrel.zoo.plan import plan, refuse_too_large
from whimbrel.zoo.store import Store, resolve

STEP_SECONDS = 0.25
"""Longest step: a short prompt waits for the one that runs and takes part in the next, and shall begin within a second."""

CACHE_BYTES = 2 * 2**30
"""Cache of a model where nobody chose one, unless a single context needs more or memory has less."""


def check_models(settings: ServerSettings) -> None:
    """Find out what can be known before anything is loaded; what ``load`` finds out, its askers are told.

    Raises ``ModelNotFound`` for a name that isn't here, and ``InvalidParameter`` for an option that is impossible.
    """
    at_least_one("max_sequences", settings.model_options.get("max_sequences", 1))
    for name in settings.models:
        plan(str(resolve(name)), **_planned(settings.model_options))


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
    planned = plan(str(path), **_planned(options))
    return max(planned.cache, min(CACHE_BYTES, planned.available // 2))


def _planned(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say how much memory a model takes."""
    return {
        name: options[name] for name in ("context", "weights", "kv_dtype", "attention", "sparse") if name in options
    }
