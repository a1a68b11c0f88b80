"""Grammars of whole answers, in Lark's syntax as llguidance reads it: thinking, then calls of tools, text, or a shape.

What a grammar holds an answer to:

- *calls that must come* (``required``, a tool's name): thinking if the model thinks, then calls and nothing else;
- *calls that may come* (``auto``): any text; where the mark that begins a call appears, a call has to follow. With a
  shape the text is of that shape, and an answer is either calls or text;
- *no calls* (``none``): any text without that mark, or the shape;
- *a shape alone*: thinking if the model thinks, then the shape.

A mark that is one control token of the vocabulary is named by its id: no text can stand for it. Where it is ordinary text
a lazy lexeme looks for it.
"""

import json
import re
from collections.abc import Sequence

from whimbrel.backends.grammar import compile_shape, grammar_around, grammar_from_lark, json_rule
from whimbrel.backends.json_schema import ANNOTATIONS
from whimbrel.backends.shape import Shape
from whimbrel.engine.constrain import Grammar
from whimbrel.errors import InvalidParameter
from whimbrel.models.reasoning import Opening, Thinking
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.models.tool_calls.format import ToolFormat
from whimbrel.models.tool_calls.plan import ToolPlan
from whimbrel.models.tool_calls.tool import Tool

KEYWORD = re.compile(r"[^\s,=()\[\]{}\"'`]+")
"""A name that can stand before ``(`` or ``=`` in a Python call"""

NAMED_PARTS = ("$defs", "definitions")


def answer_grammar(
    shape: Shape | None, thinking: Thinking, plan: ToolPlan | None, tokenizer: Tokenizer, eos_ids: Sequence[int]
) -> Grammar:
    """The grammar of an answer, compiled. Something must be asked of it: a shape, or a plan of calls.

    Raises ``InvalidParameter`` for what can't be enforced, ``MissingExtra`` without llguidance.
    """
    shaped = shape if plan is None or not plan.forced else None  # an answer of calls alone has no text
    if shaped is not None and plan is not None and plan.choice == "auto" and not plan.format.begin:
        raise InvalidParameter(
            "a shape beside tools is impossible for this model, whose calls look like any JSON; leave the shape out, or "
            "choose tool_choice 'none' or 'required'"
        )
    try:
        if shaped is not None and plan is None and not thinking.precedes:
            return compile_shape(shaped, tokenizer, eos_ids)
        lark = answer_lark(thinking, plan, tokenizer, shaped=shaped is not None)
        if shaped is None:
            return grammar_from_lark(lark, tokenizer, eos_ids)
        return grammar_around(lark, shaped, tokenizer, eos_ids)
    except InvalidParameter as error:
        error.parameter = error.parameter or ("tools" if shaped is None else "shape")
        raise


def answer_lark(thinking: Thinking, plan: ToolPlan | None, tokenizer: Tokenizer, *, shaped: bool) -> str:
    """The grammar. ``shaped``: what is said is the nonterminal ``@shape``, which the caller defines.

    Raises ``InvalidParameter`` for a schema that can't be enforced, naming its tool.
    """
    return _Writer(thinking, tokenizer).answer(plan, shaped=shaped)


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(self, thinking: Thinking, tokenizer: Tokenizer) -> None:
        self._thinking = thinking
        self._tokenizer = tokenizer
        self._rules: list[str] = []
        self._marks: tuple[str, ...] = ()

    def answer(self, plan: ToolPlan | None, *, shaped: bool) -> str:
        thoughts = self._thoughts()
        body = "@shape" if plan is None else self._body(plan, shaped=shaped)
        starts = [f"{thought} gap body" for thought in thoughts]
        if self._thinking.opening != Opening.OPEN:
            starts.append("body")
        rules = [f"start: {' | '.join(starts)}", f"body: {body}", *self._rules]
        if thoughts:
            rules.append("gap: /[ \\n]{0,4}/")
        return "\n".join(rules)

    # --- thinking

    def _thoughts(self) -> list[str]:
        if self._thinking.opening == Opening.CLOSED:
            return []
        if self._thinking.opened is not None:
            return [self._until("thought", "", self._thinking.opened.end)]
        return [self._until(f"thought_{n}", tags.start, tags.end) for n, tags in enumerate(self._thinking.tags)]

    def _until(self, name: str, start: str, end: str, *, but: str = "") -> str:
        """A rule: ``start``, any text, ``end``, as short as possible; ``but``: a terminal's condition on the text."""
        first = _pattern(start) if start and self._id(start) is None else ""
        first_rule = "" if not start or first else f"{self._mark(start)} "
        last = _pattern(end) if self._id(end) is None else ""
        last_rule = "" if last else f" {self._mark(end)}"
        terminal = name.upper()
        self._rules.append(f"{terminal}: /{first}(?s:.*){last}/{but}")
        if last:
            self._rules.append(f"{name}_text[lazy]: {terminal}")
            self._rules.append(f"{name}: {first_rule}{name}_text")
        else:
            self._rules.append(f"{name}: {first_rule}{terminal}{last_rule}")
        return name

    # --- text and calls

    def _body(self, plan: ToolPlan, *, shaped: bool) -> str:
        if plan.forced:
            return self._block(plan, plan.format.begin)
        if plan.choice == "none":
            return "@shape" if shaped else self._text(plan.format)
        if shaped:
            return f"{self._block(plan, plan.format.begin)} | @shape"
        if not plan.format.begin:
            return f"{self._text(plan.format)} | {self._block(plan, '')}"
        head = self._until("head", "", plan.format.begin, but=self._but_thoughts())
        rest = self._block(plan, "", opened=True)
        tail = self._text(plan.format)
        return f"({head} {rest})* {tail}" if plan.several else f"{tail} | {head} {rest}"

    def _text(self, format: ToolFormat) -> str:
        """A rule: text without calls."""
        if format.begin:
            marks = [format.begin] if self._id(format.begin) is None else []
            without = "".join(f" & ~/(?s:.*){_pattern(mark)}(?s:.*)/" for mark in marks)
            self._rules.append(f"TEXT: /(?s:.*)/{without}{self._but_thoughts()}")
        else:
            self._rules.append(f"TEXT: /(\\s*[^\\s{{](?s:.*))?/{self._but_thoughts()}")
        self._rules.append("text: TEXT")
        return "text"

    def _but_thoughts(self) -> str:
        """A terminal's condition: what begins like a thought is one."""
        if self._thinking.opening != Opening.FREE:
            return ""
        plain = [tags.start for tags in self._thinking.tags if self._id(tags.start) is None]
        return "".join(f" & ~/\\s*{_pattern(start)}(?s:.*)/" for start in plain)

    def _block(self, plan: ToolPlan, begin: str, *, opened: bool = False) -> str:
        """A rule: calls with what belongs around them. ``opened``: the mark that begins it was written already."""
        format = plan.format
        self._marks = tuple(format.marks)
        calls = [self._call(n, tool, plan) for n, tool in enumerate(plan.callable)]
        self._rules.append(f"call: {' | '.join(calls)}")
        # A block of one call each is begun anew by its mark: where text may come between them, that isn't fixed.
        several = plan.several and not (opened and format.end and format.end in format.between)
        between = f"({self._literal(format.between)} call)*" if several else ""
        lead = f"{self._mark(format.lead)}?" if format.lead and self._id(format.lead) is not None else ""
        opening, closing = self._literal(begin + format.opening), self._literal(format.closing + format.end)
        self._rules.append(" ".join(part for part in ("block:", lead, opening, "call", between, closing) if part))
        return "block"

    def _call(self, number: int, tool: Tool, plan: ToolPlan) -> str:
        strict = plan.forced or tool.strict
        try:
            if plan.format.python:
                arguments = self._keywords(number, tool, strict=strict)
            else:
                arguments = json_rule(tool.parameters, strict=strict)
        except InvalidParameter as error:
            refused = InvalidParameter(f"calls of the tool {tool.name!r} can't be held to its schema: {error}")
            refused.parameter = "tools"
            raise refused from None
        before, after = _quoted(plan.format.before_arguments(tool.name)), _quoted(plan.format.after_arguments)
        self._rules.append(f"arguments_{number}: {arguments}")
        self._rules.append(f"call_{number}: {before} arguments_{number} {after}")
        return f"call_{number}"

    def _keywords(self, number: int, tool: Tool, *, strict: bool) -> str:
        """The arguments of a Python call: each parameter by its name, in the schema's order, values in JSON."""
        schema = tool.parameters
        needed = set(schema.get("required", ()))
        if not KEYWORD.fullmatch(tool.name):
            raise InvalidParameter("a Python call can't have this name; call it by letters and digits")
        if strict:
            _check_keywords(tool)
        parts = {name: schema[name] for name in NAMED_PARTS if name in schema}
        names = [name for name in schema.get("properties", {}) if KEYWORD.fullmatch(name)]
        for place in range(len(names), -1, -1):  # first_i: from parameter i on, with none before; more_i: with some
            first, more = f"first_{number}_{place}", f"more_{number}_{place}"
            if place == len(names):
                self._rules += [f'{first}: ""', f'{more}: ""']
                continue
            name, after = names[place], f"more_{number}_{place + 1}"
            value = schema["properties"][name]
            value = value if isinstance(value, bool) else {**value, **parts}
            rule = f"value_{number}_{place}"
            self._rules.append(f"{rule}: {_quoted(name + '=')} {json_rule(value, strict=strict)}")
            skip = "" if name in needed else f" | first_{number}_{place + 1}"
            self._rules.append(f"{first}: {rule} {after}{skip}")
            skip = "" if name in needed else f" | {after}"
            self._rules.append(f'{more}: ", " {rule} {after}{skip}')
        return f"first_{number}_0"

    # --- texts

    def _id(self, mark: str) -> int | None:
        """The control token that a mark is, or None where it is ordinary text."""
        id = self._tokenizer.token_id(mark)
        return id if id in self._tokenizer.special_ids else None

    def _mark(self, mark: str) -> str:
        id = self._id(mark)
        return _quoted(mark) if id is None else f"<[{id}]>"

    def _literal(self, text: str) -> str:
        """Exactly this text, in which marks may be control tokens."""
        special = [mark for mark in self._marks if self._id(mark) is not None]
        pieces = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
        return " ".join(self._mark(piece) if piece in special else _quoted(piece) for piece in pieces if piece)


def _check_keywords(tool: Tool) -> None:
    """Raises ``InvalidParameter`` where a Python call can't say all that the schema demands."""
    schema = tool.parameters
    known = ANNOTATIONS | {"type", "properties", "required", "additionalProperties"}
    properties: Sequence[str] = list(schema.get("properties", {}))
    for keyword in schema:
        if keyword not in known and not keyword.startswith("x-"):
            raise InvalidParameter(f"/{keyword}: a call with Python's keywords can't be held to this")
    for name in (*properties, *schema.get("required", ())):
        if not KEYWORD.fullmatch(name) or name not in properties:
            raise InvalidParameter(f"/properties/{name}: a call with Python's keywords can't name this parameter")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _pattern(text: str) -> str:
    """A regular expression that matches this text, for between slashes."""
    return re.escape(text).replace("/", "\\/")
