"""Tools as a request brings them (the ``tools`` and ``tool_choice`` of OpenAI's chat API), checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whimbrel.errors import InvalidParameter

CHOICES = ("none", "auto", "required")

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """Something that the model may ask to be done: its name, what it does, the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any]
    strict: bool = False
    """calls of it have to fit the schema"""

    @property
    def described(self) -> dict[str, Any]:
        """As chat templates want to have it."""
        missing = {name: value for name, value in NO_PARAMETERS.items() if name not in self.parameters}
        function = {"name": self.name, "description": self.description, "parameters": {**self.parameters, **missing}}
        return {"type": "function", "function": function}


def read_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """``[{"type": "function", "function": {"name", "description", "parameters", "strict"}}, ...]``, checked.

    Raises ``InvalidParameter``, naming the place, for what is no such list and for two tools of one name.
    """
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        raise InvalidParameter(f"tools={tools!r} is impossible; give a list of tools")
    found: dict[str, Tool] = {}
    for place, entry in enumerate(tools):
        tool = _tool(f"tools[{place}]", entry)
        if tool.name in found:
            raise InvalidParameter(f"tools[{place}] is called {tool.name!r} as another one is; give each its own name")
        found[tool.name] = tool
    return tuple(found.values())


def check_choice(choice: str, tools: Sequence[Tool]) -> None:
    """Raises ``InvalidParameter`` unless ``choice`` is "none", "auto", "required" or the name of a tool."""
    names = [tool.name for tool in tools]
    if choice not in (*CHOICES, *names):
        raise InvalidParameter(f"tool_choice={choice!r} is unknown; there are {', '.join((*CHOICES, *names))}")
    if choice == "required" and not tools:
        raise InvalidParameter("tool_choice='required' is impossible without tools; give tools, or leave it out")


def _tool(place: str, entry: Any) -> Tool:
    if not isinstance(entry, Mapping) or entry.get("type", "function") != "function":
        raise InvalidParameter(f'{place} is no tool; give {{"type": "function", "function": {{"name": ...}}}}')
    function = entry.get("function")
    if not isinstance(function, Mapping):
        raise InvalidParameter(f"{place}.function is missing; it has the tool's name, description and parameters")
    name, parameters = function.get("name"), function.get("parameters") or NO_PARAMETERS
    if not isinstance(name, str) or not name or not name.isprintable():
        raise InvalidParameter(f"{place}.function.name={name!r} is impossible; a name is a printable text")
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InvalidParameter(f"{place}.function.parameters of {name!r} is no JSON schema of an object")
    return Tool(
        name=name,
        description=str(function.get("description") or ""),
        parameters=parameters,
        strict=bool(function.get("strict")),
    )
