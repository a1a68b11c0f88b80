"""ToolPlan: which calls an answer may have."""

from dataclasses import dataclass

from whimbrel.models.tool_calls.format import ToolFormat
from whimbrel.models.tool_calls.tool import Tool


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolPlan:
    """Which calls an answer may have."""

    format: ToolFormat
    tools: tuple[Tool, ...]
    choice: str = "auto"
    """"none", "auto", "required" or a tool's name"""
    parallel: bool = True

    @property
    def forced(self) -> bool:
        """True where the answer has to be a call."""
        return self.choice not in ("none", "auto")

    @property
    def binding(self) -> bool:
        """True where a call that doesn't fit its schema would break a promise."""
        return self.forced or (self.choice == "auto" and any(tool.strict for tool in self.tools))

    @property
    def several(self) -> bool:
        """True where more than one call may come; a named tool is called once."""
        return self.parallel and self.format.parallel and self.choice in ("auto", "required")

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The tools that this answer may call."""
        if self.choice == "none":
            return ()
        named = tuple(tool for tool in self.tools if tool.name == self.choice)
        return named if self.choice not in ("auto", "required") else self.tools
