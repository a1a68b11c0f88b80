"""ToolFormat: how a family of models writes tool calls.

A block of calls is ``begin + opening + call (+ between + call) ... + closing + end``; a call is a JSON object with the
tool's name and its arguments, or a Python call. Llama 3 has no marks: its whole answer is the call.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFormat:
    """The texts around calls, and how one call is written."""

    name: str
    begin: str = ""
    """what no answer has but one with calls; "" where an answer is either text or a call, from its first character"""
    opening: str = ""
    between: str = ""
    closing: str = ""
    end: str = ""
    python: bool = False
    """calls are Python's, with keywords; otherwise JSON objects"""
    arguments_key: str = "arguments"
    lead: str = ""
    """what may come before a call, where there is no ``begin``"""
    parallel: bool = True
    """several calls in one answer; where not, several are read all the same, but a grammar lets one through"""

    @property
    def marks(self) -> frozenset[str]:
        """The texts that some vocabularies have control tokens for."""
        return frozenset({self.begin, self.end, self.lead} - {""})

    def before_arguments(self, name: str) -> str:
        """A call up to its arguments."""
        quoted = json.dumps(name, ensure_ascii=False)
        return f"{name}(" if self.python else f'{{"name": {quoted}, "{self.arguments_key}": '

    @property
    def after_arguments(self) -> str:
        """A call's end."""
        return ")" if self.python else "}"

    def write(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> str:
        """Calls (name and arguments) as a model of this family writes them."""
        written = [
            self.before_arguments(name) + self._arguments(arguments) + self.after_arguments for name, arguments in calls
        ]
        return self.begin + self.opening + self.between.join(written) + self.closing + self.end

    def _arguments(self, arguments: dict[str, Any]) -> str:
        if not self.python:
            return json.dumps(arguments, ensure_ascii=False)
        return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())


HERMES = ToolFormat(
    name="hermes",
    begin="<tool_call>",
    opening="\n",
    between="\n</tool_call>\n<tool_call>\n",
    closing="\n",
    end="</tool_call>",
)
"""Hermes 2 Pro, Qwen2.5, Qwen3: one JSON object in each block"""

SMOLLM = ToolFormat(name="smollm", begin="<tool_call>", opening="[", between=", ", closing="]", end="</tool_call>")
"""SmolLM2: one block with a JSON list"""

MISTRAL = ToolFormat(name="mistral", begin="[TOOL_CALLS]", opening="[", between=", ", closing="]")
"""Mistral's models of 2024: a JSON list to the end of the answer"""

LLAMA = ToolFormat(name="llama", arguments_key="parameters", between="; ", lead="<|python_tag|>", parallel=False)
"""Llama 3.1 to 3.3: the answer is one JSON object"""

MINICPM = ToolFormat(
    name="minicpm",
    begin="<|tool_call_start|>",
    opening="\n```python\n",
    between="\n",
    closing="\n```\n",
    end="<|tool_call_end|>",
    python=True,
)
"""MiniCPM3 and MiniCPM4: Python calls with keywords, one a line"""

GENERIC = replace(HERMES, name="generic", parallel=False)
"""For models whose chat template knows no tools, or writes calls in a way that isn't known here.

One call at a time: a model that wasn't trained to call tools doesn't know when to stop (SmolLM2-135M called the same one
until its tokens ran out).
"""
