"""Shapes compiled for a tokenizer, over ``llguidance`` (an Earley parser that walks the vocabulary's trie).

``compile_shape`` is what the text level calls. Whoever writes a grammar of their own (tool calls) composes Lark's syntax
of ``text_rule`` and ``json_rule`` and gives it to ``grammar_from_lark``.

Control tokens are marked as such in the trie, so that no text in an answer or a schema can produce one; only a grammar
that names a control token (``<|name|>``) lets it through. Everything is cached for as long as its tokenizer lives.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from whimbrel.backends.guidance import explain, library, problem_of, vocabulary
from whimbrel.backends.json_schema import OPTIONS, enforceable
from whimbrel.backends.shape import JsonObject, JsonSchema, Lark, OneOf, Regex, Shape, Sql
from whimbrel.engine.constrain import Grammar
from whimbrel.errors import InvalidParameter
from whimbrel.models.tokenizer import Tokenizer

RULE_OPTIONS = re.compile(r"^\s*[A-Za-z_][\w-]*\s*\[([^\]]*)\]\s*:", re.MULTILINE)
"""What stands in brackets between a rule's name and its colon"""


# --- what others call


def compile_shape(shape: Shape, tokenizer: Tokenizer, eos_ids: Iterable[int]) -> Grammar:
    """The grammar of a shape. ``eos_ids`` end the answer, the first one where the grammar itself ends it.

    Raises ``InvalidParameter`` for what can't be enforced (with the keyword and where it stands), for syntax errors and
    for shapes that are too large; ``MissingExtra`` without ``llguidance``.
    """
    return vocabulary(tokenizer, eos_ids).compiled(_key(shape), lambda: _source(shape))


def grammar_from_lark(grammar: str, tokenizer: Tokenizer, eos_ids: Iterable[int]) -> Grammar:
    """The grammar of a text in Lark's syntax. Raises as ``compile_shape`` does."""
    return compile_shape(Lark(grammar), tokenizer, eos_ids)


def grammar_around(grammar: str, shape: Shape, tokenizer: Tokenizer, eos_ids: Iterable[int]) -> Grammar:
    """The grammar of a text in Lark's syntax, in which ``@shape`` stands for the shape. Raises as ``compile_shape``."""

    def source() -> str:
        inner = _source(shape)
        part = json.loads(inner)["grammars"][0] if inner.startswith("{") else {"lark_grammar": inner}
        return json.dumps({"grammars": [{"lark_grammar": grammar}, {**part, "name": "shape"}]})

    return vocabulary(tokenizer, eos_ids).compiled(f"{_key(shape)} in {grammar}", source)


def check_schema(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> None:
    """Raises ``InvalidParameter`` if an answer can't be held to the schema, with the keyword and its JSON pointer."""
    _checked(_dumps(schema), strict)


def json_rule(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> str:
    """A rule's body in Lark's syntax: JSON of that schema. Raises ``InvalidParameter`` as ``check_schema`` does."""
    return f"%json {_checked(_dumps(schema), strict)}"


def text_rule(text: str, tokenizer: Tokenizer) -> str:
    """A rule's body in Lark's syntax: exactly this text, in which names of control tokens stand for these tokens."""
    names = {tokenizer.token_bytes(id).decode("utf-8", "replace"): id for id in tokenizer.special_ids}
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if longest_first else [text]
    return " ".join(f"<[{names[part]}]>" if part in names else _quoted(part) for part in parts if part)


# --- shapes as llguidance's grammars


def _source(shape: Shape) -> str:
    """The grammar as llguidance reads it."""
    matcher = library().LLMatcher
    source: str
    match shape:
        case JsonObject():
            source = _source(JsonSchema({"type": "object"}))
        case JsonSchema(schema, strict):
            source = matcher.grammar_from_json_schema(_checked(_dumps(schema), strict))
        case Regex(pattern):
            source = matcher.grammar_from_regex(library().regex_to_lark(pattern, "dw"))
        case Lark(grammar):
            _check_options(grammar)
            source = matcher.grammar_from_lark(grammar)
        case OneOf(choices):
            texts = " | ".join(map(_quoted, dict.fromkeys(choices)))
            source = matcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}")
        case Sql(dialect):
            source = matcher.grammar_from_lark(_sql(dialect))
        case _:
            raise InvalidParameter(f"a {type(shape).__name__} is no shape; see whimbrel.backends.shape")
    return source


def _quoted(text: str) -> str:
    """A string of Lark's syntax."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return (
        '"'
        + "".join(escapes.get(char, f"\\x{ord(char):02x}" if char < " " or char == "\x7f" else char) for char in text)
        + '"'
    )


def _check_options(grammar: str) -> None:
    """Raises ``InvalidParameter`` for options of rules that would be ignored, or would take written text back."""
    for options in RULE_OPTIONS.findall(grammar):
        if found := re.search(r"\b(stop|max_tokens|temperature)\s*=", options):
            raise InvalidParameter(
                f"the rule option {found[1]!r} of the grammar isn't supported; use suffix= or lazy instead of stop, and the"
                " request's own max_tokens and temperature"
            )


@lru_cache(maxsize=256)
def _checked(schema: str, strict: bool) -> str:
    """The schema as llguidance enforces it, as JSON. Raises ``InvalidParameter`` where it can't."""
    result = enforceable(json.loads(schema), strict=strict)
    options = OPTIONS if strict else {**OPTIONS, "lenient": True}

    def check(part: Any) -> str:
        return problem_of(library().LLMatcher.grammar_from_json_schema({**part, "x-guidance": options}))

    whole = {"anyOf": [result.schema]} if isinstance(result.schema, bool) else result.schema
    if problem := check(whole):
        pointer, problem = result.place(problem, check)
        reason = explain(re.sub(r"json-schema:///#/\$defs/(\w+)", lambda name: result.names[name[1]], problem))
        raise InvalidParameter(f"the schema can't be enforced at {pointer}: {reason}")
    return json.dumps({**whole, "x-guidance": options})


@cache
def _sql(dialect: str) -> str:
    return (files("whimbrel.backends") / "grammars" / f"{dialect}.lark").read_text(encoding="utf-8")


def _key(shape: Shape) -> str:
    """A text that two shapes share if they are the same; the order of a schema's properties counts."""
    if isinstance(shape, JsonSchema):
        return f"JsonSchema {shape.strict} {_dumps(shape.schema)}"
    return repr(shape)


def _dumps(schema: Any) -> str:
    try:
        return json.dumps(schema, default=dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"the schema can't be written as JSON: {error}") from None
