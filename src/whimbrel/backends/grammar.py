"""Shapes compiled for a tokenizer, over ``llguidance`` (an Earley parser that walks the vocabulary's trie).

``compile_shape`` is what the text level calls. Whoever writes a grammar of their own (tool calls) composes Lark's syntax
of ``text_rule`` and ``json_rule`` and gives it to ``grammar_from_lark``.

Control tokens are marked as such in the trie, so that no text in an answer or a schema can produce one; only a grammar
that names a control token (``<|name|>``) lets it through. Everything is cached for as long as its tokenizer lives.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from whimbrel.backends.guidance import explain, library, limits, vocabulary
from whimbrel.backends.json_schema import OPTIONS, enforceable
from whimbrel.backends.shape import JsonObject, JsonSchema, Lark, OneOf, Regex, Shape, Sql
from whimbrel.engine.constrain import Grammar
from whimbrel.errors import InvalidParameter
from whimbrel.models.tokenizer import Tokenizer

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


def check_schema(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> None:
    """Raises ``InvalidParameter`` if an answer can't be held to the schema, with the keyword and its JSON pointer."""
    source = _source(JsonSchema(schema, strict))
    problem = library().LLMatcher.validate_grammar(source, None, limits=limits())
    if problem:
        raise InvalidParameter(f"the schema can't be enforced: {explain(problem)}")


def json_rule(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> str:
    """A rule's body in Lark's syntax: JSON of that schema. Raises ``InvalidParameter`` as ``check_schema`` does."""
    return f"%json {json.dumps(_with_options(enforceable(schema, strict=strict)))}"


def text_rule(text: str, tokenizer: Tokenizer) -> str:
    """A rule's body in Lark's syntax: exactly this text, in which names of control tokens stand for these tokens."""
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    parts: list[str] = []
    plain: list[int] = []
    for id in [*ids, None]:
        if id is not None and id not in tokenizer.special_ids:
            plain.append(id)
            continue
        if plain:
            parts.append(json.dumps(tokenizer.decode(plain), ensure_ascii=False))
        plain = []
        if id is not None:
            parts.append(f"<[{id}]>")
    return " ".join(parts)


# --- shapes as llguidance's grammars


def _source(shape: Shape) -> str:
    """The grammar as llguidance reads it."""
    matcher = library().LLMatcher
    source: str
    match shape:
        case JsonObject():
            source = _source(JsonSchema({"type": "object"}))
        case JsonSchema(schema, strict):
            source = matcher.grammar_from_json_schema(_with_options(enforceable(schema, strict=strict)))
        case Regex(pattern):
            source = matcher.grammar_from_regex(pattern)
        case Lark(grammar):
            source = matcher.grammar_from_lark(grammar)
        case OneOf(choices):
            texts = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(choices))
            source = matcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}")
        case Sql(dialect):
            source = matcher.grammar_from_lark(_sql(dialect))
        case _:
            raise InvalidParameter(f"a {type(shape).__name__} is no shape; see whimbrel.backends.shape")
    return source


def _with_options(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    if isinstance(schema, bool):
        return {"x-guidance": OPTIONS} if schema else {"not": {}}
    return {**schema, "x-guidance": OPTIONS}


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
