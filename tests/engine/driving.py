"""How the tests drive an engine."""

from typing import Any

from toy import toy_model, toy_ops

from whimbrel.engine import Engine, Request, SamplingParams, StepOutput


def toy_engine(model_options: dict[str, Any] | None = None, **options: Any) -> Engine:
    """An engine of the toy network."""
    settings: dict[str, Any] = {"ops": toy_ops(), "kv_dtype": "f32", "max_context": 512} | options
    return Engine(toy_model(**model_options or {}), **settings)


def request(prompt: list[int], **params: Any) -> Request:
    """A request of ids."""
    return Request(token_ids=tuple(prompt), params=SamplingParams(**params))


def finish(engine: Engine, *ids: int) -> dict[int, list[StepOutput]]:
    """Step until the given requests (all, if none is given) have ended; their outputs in order."""
    outputs: dict[int, list[StepOutput]] = {id: [] for id in ids}
    left = set(ids)
    while left if ids else not engine.is_idle:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
            if output.finish_reason is not None:
                left.discard(output.request_id)
    return outputs


def tokens_of(outputs: list[StepOutput]) -> list[int]:
    """All tokens written."""
    return [token for output in outputs for token in output.token_ids]


def write(engine: Engine, prompt: list[int], **params: Any) -> list[int]:
    """The tokens of one request, run alone."""
    id = engine.add(request(prompt, **params))
    return tokens_of(finish(engine, id)[id])
