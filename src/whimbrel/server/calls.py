"""Tools and calls between the dialects' forms and the one of OpenAI's chat API, which everything below speaks."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

UNREADABLE = "unparsed"
"""The key under which arguments stand that are no JSON object, where a dialect wants one."""


def tool(name: Any, description: Any, parameters: Any, strict: Any) -> dict[str, Any]:
    """A tool of the request; ``LLM.stream`` checks what is in it."""
    function = {"name": name, "description": description, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def call(id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call in a message of the assistant; ``arguments`` is JSON text."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def arguments_object(arguments: str) -> Mapping[str, Any]:
    """A call's arguments as an object.

    Of arguments that an answer's end has cut, what is there of them; what is no JSON at all stands under "unparsed".
    """
    try:
        value = from_json(arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {UNREADABLE: arguments}
