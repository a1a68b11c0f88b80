"""Behind: a conversation as text, in which documents that were read before stand where they were read.

A document was read behind what the chat template puts before the user's text when nothing else is said, and that can't
change once it is read. What a conversation wants there in addition (another system message, the descriptions of tools)
goes behind the documents, before the question.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from whimbrel.backends.dialect import Tools
from whimbrel.backends.turn import MARKER, SEPARATOR
from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.backends.document import Document
    from whimbrel.backends.llm import LLM

Messages = Sequence[Mapping[str, Any]]
Variables = Mapping[str, Any] | None


def text_behind(document: "Document", messages: Messages, template: Variables, tools: Tools) -> str:
    """The conversation as the model reads it, with ``document.mark`` for the documents.

    Raises ``UsageError`` without a message of the user, for one of the assistant before it, for a template that changes
    what the user says, or variables that change how it begins.
    """
    llm, mark = document.llm, document.mark
    first = [{"role": "system", "content": document.system}] if document.system else []
    turns = [dict(message) for message in messages]
    if first and not (turns and turns[0].get("role") == "system"):
        turns = [*first, *turns]
    asked = next((turn for turn in turns if turn.get("role") == "user"), None)
    if asked is None:
        raise UsageError("a document wants a question; give a message from the user")
    asked["content"] = f"{mark}{SEPARATOR}{asked.get('content') or ''}"
    before, found, after = llm.render(turns, template, tools).partition(mark)
    if not found or mark in after:
        raise UsageError("this model's chat template changes what the user says; documents can't be kept for it")
    beginning = [*first, {"role": "user", "content": mark}]
    usual = llm.render(beginning, template).partition(mark)[0]
    if template and usual != llm.render(beginning).partition(mark)[0]:
        raise UsageError(
            f"the template's variables ({', '.join(template)}) change how a conversation begins, and the document was read "
            "without them; leave them out"
        )
    more = _more(llm, before, usual, template)
    if more:
        after = f"{SEPARATOR}{more}\n\n{after.removeprefix(SEPARATOR)}"
    return f"{usual}{mark}{after}"


def _more(llm: "LLM", before: str, usual: str, template: Variables) -> str:
    """What stands in ``before`` and not in ``usual``. Raises ``UsageError`` where it has turns of its own."""
    if before == usual:
        return ""
    said = _in_system(llm, before, template)
    if said is not None:
        return said.removeprefix(_in_system(llm, usual, template) or "").strip()
    names = [name for id in llm.tokenizer.special_ids if (name := llm.tokenizer.token_name(id))]
    pieces = re.compile(f"({'|'.join(map(re.escape, [*names, chr(10)]))})")
    old, new = pieces.split(usual), pieces.split(before)
    changes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    added = [new[start:end] for kind, _, _, start, end in changes if kind != "equal"]
    if any(piece in names for run in added for piece in run):
        raise UsageError(
            "what stands before a document can't change once it is read: begin the conversation with the user's message, "
            "or give the document's text as part of it"
        )
    return "\n\n".join(text for run in added if (text := "".join(run).strip()))


def _in_system(llm: "LLM", before: str, template: Variables) -> str | None:
    """The system message in the beginning of a conversation; None where it isn't one with nothing else."""
    try:
        shown = llm.render([{"role": role, "content": MARKER} for role in ("system", "user")], template)
    except UsageError:
        return None
    parts = shown.split(MARKER)
    if len(parts) != 3 or len(before) < len(parts[0]) + len(parts[1]):
        return None
    head, tail, _ = parts
    return before[len(head) : len(before) - len(tail)] if before.startswith(head) and before.endswith(tail) else None
