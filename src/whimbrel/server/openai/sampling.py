"""Sampling: the fields of a request that say how tokens are chosen, for chat and for completions."""

from collections.abc import Mapping
from typing import Any

from whimbrel.server.errors import ApiError
from whimbrel.server.fields import Body

MOST_STOPS = 64
LONGEST_STOP = 1000
"""characters"""

_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "overflow",
)


class Sampling(Body):
    """What chat and completions have in common. ``None`` leaves a choice to the model's own generation config."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    overflow: str | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None

    def sampling(self) -> dict[str, Any]:
        """Options of ``LLM.stream``. Raises ``ApiError`` 400 for a bias of something that is no token id."""
        options = {name: value for name in _SAME_NAME if (value := getattr(self, name)) is not None}
        if self.max_tokens is not None:
            options["max_tokens"] = self.max_tokens
        if self.stop:
            options["stop"] = checked_stops(self.stop)
        if self.logit_bias:
            options["logit_bias"] = _biases(self.logit_bias)
        return options


def checked_stops(stop: str | list[str], param: str = "stop") -> str | list[str]:
    """Each step looks for every one of them, so there is an end to their number and length.

    ``param``: the field's name, for what errors say. Raises ``ApiError`` 400.
    """
    texts = [stop] if isinstance(stop, str) else stop
    if len(texts) > MOST_STOPS:
        raise ApiError(400, f"{param} has {len(texts)} texts; give {MOST_STOPS} at most", param=param)
    if (longest := max(map(len, texts))) > LONGEST_STOP:
        message = f"a text of {param} has {longest:,} characters; give {LONGEST_STOP:,} at most"
        raise ApiError(400, message, param=param)
    return stop


def _biases(biases: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(id): bias for id, bias in biases.items()}
    except ValueError:
        raise ApiError(400, "logit_bias maps token ids, written as numbers, to biases", param="logit_bias") from None
