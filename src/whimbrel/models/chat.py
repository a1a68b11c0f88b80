"""Chat templates: messages to one prompt text, in a sandbox, with what Hugging Face templates rely on.

A template is a Jinja program inside a checkpoint, so it runs sandboxed and can't change what it is given. It may use
``tojson`` (without HTML escapes), ``strftime_now``, ``raise_exception``, loop controls, and the ``generation`` tag,
which marks the assistant's text for training and has no effect on the prompt.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from whimbrel.errors import FormatError, UsageError

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]
"""``role`` and ``content``, and what else the template understands (``tool_calls``, ``name``)"""


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens that it may name (``bos_token``, ``eos_token``, ...)."""

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Sequence[Message], /, *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt for a conversation. ``variables`` reach the template (``tools``, ``enable_thinking``, ...).

        Raises ``FormatError`` for a template that does not compile, ``UsageError`` when it refuses the messages or
        fails on what it is given, and for variables that would take the place of the messages.
        """
        if "messages" in variables:
            raise UsageError(
                "messages can't be a variable of the template: it is what the conversation is called there"
            )
        template = self._template
        scope = {**self.special_tokens, "tools": None, "documents": None, **variables}
        scope |= {"messages": [dict(message) for message in messages], "add_generation_prompt": add_generation_prompt}
        try:
            return template.render(scope)
        except Exception as error:  # noqa: BLE001  (a program of the model's maker on values of a client's)
            raise UsageError(f"the model's chat template refuses these messages: {error}") from None

    @cached_property
    def _template(self) -> "Template":
        return _compile(self.source)


def _compile(source: str) -> "Template":
    # jinja2 takes 45 ms to import, so only a chat pays for it.
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import TemplateRuntimeError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %} ... {% endgeneration %}`` is its body."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateRuntimeError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise FormatError(f"the model's chat template does not compile: {error}") from None


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes <, > and &, which would corrupt the descriptions of tools."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
