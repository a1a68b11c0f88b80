"""Prompts of evaluations: the text of a task, and where the model's answer begins, as token ids.

A base model goes on from ``text`` and the beginning of an answer. With ``chat`` the text is a user's message in the
model's template, and the same beginning is put into its mouth: whoever has to write "The answer is" first, or adds
pleasantries, is not scored for that.
"""

from whimbrel.backends.llm import LLM


class Prompter:
    """Text to prompt ids, for one model and one way of asking."""

    def __init__(self, llm: LLM, *, chat: bool = False) -> None:
        """``chat`` raises ``UsageError`` at the first prompt where the model has no chat template."""
        self._llm = llm
        self.chat = chat

    def ids(self, text: str, beginning: str) -> list[int]:
        """Ids of a prompt. ``beginning`` starts the answer; it has no space around it."""
        if not self.chat:
            return self._llm.tokenize(f"{text}\n{beginning}")
        rendered = self._llm.render([{"role": "user", "content": text}]) + beginning
        return self._llm.tokenize(rendered, add_special=False, parse_special=True)

    def count(self, text: str, beginning: str) -> int:
        """Tokens of that prompt."""
        return len(self.ids(text, beginning))
