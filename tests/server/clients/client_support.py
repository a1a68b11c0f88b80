"""What several clients' suites ask: the same questions, tools and schemas."""

import json
from typing import Any

from pydantic import BaseModel

CAPITAL: Any = [{"role": "user", "content": "Name the capital of France."}]
LONG: Any = [{"role": "user", "content": "Write a very long story about a lighthouse keeper and the sea."}]

WEATHER_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": WEATHER_PARAMETERS,
        "strict": True,
    },
}
TIME: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 20}},
            "required": ["place"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Bird(BaseModel):
    """What a constrained answer is parsed into; the bounds keep it short."""

    name: str
    legs: int
    can_fly: bool


BIRD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
        "can_fly": {"type": "boolean"},
    },
    "required": ["name", "legs", "can_fly"],
    "additionalProperties": False,
}


def is_bird(text: str) -> bool:
    """True if the text is exactly one object of ``BIRD_SCHEMA``."""
    found = json.loads(text)
    bird = Bird.model_validate(found, strict=True)
    return set(found) == {"name", "legs", "can_fly"} and 0 <= bird.legs <= 9 and len(bird.name) <= 12


def is_weather_call(arguments: str) -> bool:
    """True if these are arguments of ``WEATHER``."""
    found = json.loads(arguments)
    return set(found) == {"city", "unit"} and isinstance(found["city"], str) and found["unit"] in {"C", "F"}
