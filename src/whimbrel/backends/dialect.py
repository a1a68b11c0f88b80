"""Dialect: how one model's chat template speaks of tools and thinking."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from whimbrel.errors import UsageError
from whimbrel.models.chat import ChatTemplate, Message
from whimbrel.models.reasoning import Thinking, ThinkingTags, find_tags, thinking_after
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.models.tool_calls.plan import ToolPlan
from whimbrel.models.tool_calls.template import ToolTemplate, checked_messages
from whimbrel.models.tool_calls.tool import check_choice, read_tools

log = logging.getLogger(__name__)

Tools = Sequence[Mapping[str, Any]]
"""As in OpenAI's chat API: ``{"type": "function", "function": {"name", "description", "parameters", "strict"}}``"""

TAIL_TOKENS = 32
"""The end of a prompt, in which a template opens or closes the tags of thinking."""


class Dialect:
    """What a template does with conversations, and what answers to them look like. Without a template: nothing."""

    def __init__(self, template: ChatTemplate | None, tokenizer: Tokenizer) -> None:
        """Looks at the template only when it is asked about it."""
        self.template = template
        self._tokenizer = tokenizer

    def render(self, messages: Sequence[Message], variables: Mapping[str, Any], tools: Tools = ()) -> str:
        """A conversation as text, up to where the model's answer begins unless the variables say otherwise.

        Raises ``UsageError`` without a template, without messages, for messages that the template refuses or that can't
        be understood; ``InvalidParameter`` for tools.
        """
        if self.template is None:
            raise UsageError("this model has no chat template: it can go on with a text, but not answer messages")
        if not messages:
            raise UsageError("there are no messages; give at least one from the user")
        scope = {"add_generation_prompt": True, **variables}
        among = scope.pop("tools", None)
        shown = read_tools(tools or among or ())
        if not shown and not any(message.get("tool_calls") or message.get("role") == "tool" for message in messages):
            return self.template.render(checked_messages(messages), **scope)
        return self.tools.render(messages, shown, **scope)

    def plan(self, tools: Tools, choice: str, *, parallel: bool) -> ToolPlan | None:
        """Which calls an answer may have; None without tools. Raises ``InvalidParameter``, ``UsageError``."""
        read = read_tools(tools)
        check_choice(choice, read)
        if not read:
            return None
        if self.template is None:
            raise UsageError("this model has no chat template: it can go on with a text, but not call tools")
        return ToolPlan(format=self.tools.format, tools=read, choice=choice, parallel=parallel)

    @cached_property
    def tools(self) -> ToolTemplate:
        """How tools go through the template, which there must be; found out by rendering a call."""
        assert self.template is not None
        found = ToolTemplate(self.template)
        if found.notice:
            log.warning("%s", found.notice)
        return found

    @cached_property
    def tags(self) -> tuple[ThinkingTags, ...]:
        """What a thought may stand between."""
        return () if self.template is None else find_tags(self.template.source)

    def thinking(self, ids: Sequence[int]) -> Thinking:
        """How the answer to a conversation of these ids thinks."""
        return thinking_after(self._tokenizer.decode(ids[-TAIL_TOKENS:]), self.tags)
