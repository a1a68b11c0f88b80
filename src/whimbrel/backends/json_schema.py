"""A JSON Schema as ``llguidance`` enforces all of it: keywords checked, references resolved, objects closed.

Nothing is dropped quietly. The library ignores keywords that it doesn't know, and takes some that it can't keep; here a
keyword is enforced, or an annotation, or refused by its name and place. What is changed only narrows: whatever an answer
looks like, it is valid under the schema as it was given.

- *Closed objects.* An object whose properties are listed gets no others unless the schema says so itself
  (``additionalProperties``). In a composition (``allOf``, ``oneOf``, ``$ref`` or ``anyOf`` beside other keywords) all
  names of its parts are the list. ``{"type": "object"}`` alone stays any object.
- *Types.* Keywords that speak of one type only (``properties``, ``minLength``) imply it.
- *Integers* without bounds stay within ±(2^53 - 1), where every reader of JSON agrees about them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote

from whimbrel.backends.guidance import pattern_problem
from whimbrel.backends.json_formats import ANNOTATED, CUT_BY_PATTERN, ENFORCED
from whimbrel.errors import InvalidParameter

log = logging.getLogger(__name__)

Converted = dict[str, Any] | bool

OPTIONS = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "json_allowed_escapes": 'nrbtf"\\',
}
"""How JSON is written: as ``json.dumps`` and the chat templates' ``tojson`` write it, but for escapes like ``\\u00e9``.

Fixed separators are forced, and a small model can't get lost in white space. An escaped letter in a key would get around
the list of names that additional properties may not have."""

TYPED = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Keywords that say something about one type only."""

COMPOSITIONS = ("allOf", "anyOf", "oneOf", "$ref")
KEYWORDS = frozenset({"type", "enum", "const", *COMPOSITIONS, *(word for words in TYPED.values() for word in words)})
ANNOTATIONS = frozenset(
    {
        "$schema", "$id", "id", "$anchor", "$comment", "$vocabulary", "$defs", "definitions", "title", "description",
        "default", "examples", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType",
        "contentSchema", "example", "nullable", "discriminator", "externalDocs", "xml", "propertyOrdering",
        "markdownDescription", "enumNames", "enumDescriptions",
    }
)  # fmt: skip
"""Keywords that constrain nothing: the standard's, OpenAPI's and those of schema generators; and all ``x-...``."""

REFUSED = frozenset(
    {
        "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames",
        "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties",
        "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor",
    }
)  # fmt: skip
"""Constraints that a grammar can't keep."""

EXACT = 2**53
"""From here on a double can't hold every whole number."""
MAX_DEPTH = 40
MAX_NODES = 20_000
"""Subschemas and values of ``enum``."""
MAX_LOOKS = 50_000
"""Parts that are looked at to find the names of a composition, again and again where references lead to the same."""
MAX_TRIED = 500
"""Parts that are tried by themselves to find the place of a problem."""
MAX_MULTIPLE = 10_000
"""``multipleOf`` becomes an automaton with as many states: a million takes 5 s and 280 MB, ten thousand 50 ms."""


@dataclass(slots=True)
class Enforceable:
    """The schema, and where each part of it stood."""

    schema: Converted
    places: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(JSON pointer, converted subschema), the innermost first"""
    names: dict[str, str] = field(default_factory=dict)
    """definition -> JSON pointer of what it was made from"""

    def place(self, problem: str, check: Callable[[Any], str]) -> tuple[str, str]:
        """The innermost part that has the problem by itself: its JSON pointer, and its own problem.

        ``check`` gives a schema's problem. A part without a possible value is named where the whole lacks one for it.
        """
        definitions = self.schema.get("$defs", {}) if isinstance(self.schema, dict) else {}
        for pointer, part in self.places[:MAX_TRIED]:
            found = check({**part, "$defs": definitions})
            if found and found.split(":")[0] == problem.split(":")[0]:
                return pointer, found
        return "#", problem


def enforceable(schema: Mapping[str, Any] | bool, *, strict: bool = True) -> Enforceable:
    """The schema in keywords that are all enforced.

    Raises ``InvalidParameter`` with a keyword and where it stands; with ``strict=False`` what can't be enforced is left
    out, and the log says so.
    """
    if isinstance(schema, bool):
        return Enforceable(schema)
    return _Converter(schema, strict).run()


@dataclass(frozen=True, slots=True)
class _Part:
    """A subschema that doesn't decide alone: others hold for the same value."""

    shared: frozenset[str] = frozenset()
    """names of properties that several parts describe"""
    below: bool = False
    """True where all properties below are shared too, whatever their names"""

    def of(self, name: str) -> "_Part | None":
        """The role of a property's schema."""
        return _Part(below=True) if self.below or name in self.shared else None


class _Converter:
    """Goes through a schema once. ``part`` is None where a subschema decides about its object alone."""

    def __init__(self, root: Mapping[str, Any], strict: bool) -> None:
        self._root = root
        self._strict = strict
        self._definitions: dict[tuple[str, _Part | None], str] = {}
        self._waiting: list[tuple[str, str, _Part | None]] = []
        self._inlined: list[str] = []
        self._places: list[tuple[str, dict[str, Any]]] = []
        self._left_out: list[str] = []
        self._depth = self._nodes = self._looks = 0

    def run(self) -> Enforceable:
        schema = self._schema(self._root, "#", None)
        definitions = {}
        while self._waiting:
            name, pointer, part = self._waiting.pop()
            definitions[name] = self._schema(self._at(pointer), pointer, part)
        if self._left_out:
            log.warning("the answer is not held to all of its schema: left out were %s", "; ".join(self._left_out))
        if isinstance(schema, dict) and definitions:
            schema = {**schema, "$defs": definitions}
        names = {name: pointer for (pointer, _), name in self._definitions.items()}
        return Enforceable(schema, self._places, names)

    # --- one subschema

    def _schema(self, node: Any, at: str, part: _Part | None) -> Converted:
        if isinstance(node, bool):
            return node
        if not isinstance(node, Mapping):
            raise InvalidParameter(f"a schema is an object or true or false; the one at {at} is neither")
        self._nodes += 1 + len(_list(node.get("enum")))
        self._depth += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise InvalidParameter(
                f"the schema is too large: {self._nodes} parts, {self._depth} levels deep at {at}; the most are "
                f"{MAX_NODES} and {MAX_DEPTH}"
            )
        words = dict(self._words(node, at))
        if _is_composed(words):
            described, stated = self._described(words, at, ())
            shared = frozenset(name for name, count in described.items() if count > 1)
            result = self._keywords(words, at, part or _Part(shared))
            _require(result.get("oneOf"), _mapping(node.get("discriminator")).get("propertyName"))
            if part is None and described and not stated:
                names = {name: True for name in described}
                result = {"allOf": [result, {"properties": names, "additionalProperties": False}]}
        else:
            result = self._keywords(words, at, part)
            if part is None:
                _close(result)
                _imply_type(result)
        _bound_integers(result)
        self._depth -= 1
        self._places.append((at, result))
        return result

    def _words(self, node: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
        """The keywords that constrain. Raises ``InvalidParameter`` for others."""
        for word, value in node.items():
            if word in KEYWORDS:
                yield word, value
            elif word in ANNOTATIONS or str(word).startswith("x-") or _says_nothing(word, value):
                continue
            elif word in REFUSED:
                self._refuse(word, at, "a grammar can't keep it")
            else:
                near = get_close_matches(str(word), KEYWORDS, n=1)
                self._refuse(word, at, f"it is no keyword of JSON Schema{f'; did you mean {near[0]!r}?' * bool(near)}")

    def _keywords(self, words: Mapping[str, Any], at: str, part: _Part | None) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for word, value in words.items():
            here = f"{at}/{word}"
            match word, value:
                case "properties" | "patternProperties", Mapping():
                    result[word] = self._properties(value, here, part)
                case "allOf" | "anyOf" | "prefixItems" | "items", list():
                    own = None if word in ("prefixItems", "items") else part
                    result[word] = [self._schema(option, f"{here}/{i}", own) for i, option in enumerate(value)]
                case "oneOf", list():
                    result[word] = [self._option(option, f"{here}/{i}", part) for i, option in enumerate(value)]
                case "items" | "additionalItems" | "additionalProperties", _:
                    result[word] = self._schema(value, here, None)
                case "$ref", str():
                    result[word] = f"#/$defs/{self._definition(value, at, part)}"
                case "pattern" | "format" | "multipleOf" | "minProperties", _:
                    self._checked(word, value, words, at, result)
                case _:
                    _check_constants(value, here)
                    result[word] = value
        return result

    def _properties(self, listed: Mapping[str, Any], at: str, part: _Part | None) -> dict[str, Any]:
        result = {}
        for name, schema in listed.items():
            result[name] = self._schema(schema, f"{at}/{_escape(name)}", part and part.of(name))
        return result

    def _option(self, option: Any, at: str, part: _Part | None) -> Converted:
        """A branch of ``oneOf``. Its reference is put in, because only then the library sees that branches differ."""
        target = option.get("$ref") if isinstance(option, Mapping) and len(option) == 1 else None
        if not isinstance(target, str):
            return self._schema(option, at, part)
        pointer = self._pointer(target, at)
        if pointer in self._inlined:
            return self._schema(option, at, part)
        self._inlined.append(pointer)
        result = self._schema(self._at(pointer), pointer, part)
        self._inlined.pop()
        return result

    def _checked(self, word: str, value: Any, words: Mapping[str, Any], at: str, result: dict[str, Any]) -> None:
        """Keywords of which only some values can be enforced."""
        if word == "format" and value in ANNOTATED:
            return
        if word == "format" and value not in ENFORCED:
            return self._refuse(word, at, f"the format {value!r} is unknown here; there are {', '.join(ENFORCED)}")
        if word == "format" and value in CUT_BY_PATTERN:
            expression = CUT_BY_PATTERN[value]
            if "pattern" in words:
                result.setdefault("allOf", []).append({"pattern": expression})
            else:
                result["pattern"] = expression
            return
        if word == "multipleOf" and not _is_small_multiple(value):
            return self._refuse(word, at, f"{value!r} has more than the digits of {MAX_MULTIPLE}")
        if word == "pattern" and isinstance(value, str) and (problem := pattern_problem(value)):
            return self._refuse(word, at, problem)
        if word == "minProperties" and isinstance(value, int) and value > len(_list(words.get("required"))) + 1:
            return self._refuse(word, at, "keys that aren't listed could repeat themselves; say 'required' instead")
        _check_constants(value, f"{at}/{word}")
        result[word] = value

    def _refuse(self, word: str, at: str, why: str) -> None:
        if self._strict:
            raise InvalidParameter(f"the keyword {word!r} at {at} of the schema can't be enforced: {why}; leave it out")
        self._left_out.append(f"{word!r} at {at}")

    # --- compositions and references

    def _described(self, words: Mapping[str, Any], at: str, seen: tuple[str, ...]) -> tuple[Counter[str], bool]:
        """Names of properties in all parts of a composition, and how many parts describe each at the same time; and
        whether one of them says something about names that aren't listed.
        """
        self._looks += 1
        if self._looks > MAX_LOOKS:
            raise InvalidParameter(f"the schema is too large: its compositions have more than {MAX_LOOKS} parts")
        names = Counter(list(_mapping(words.get("properties"))))
        stated = any(word in words for word in ("additionalProperties", "patternProperties"))
        for branch in ("allOf", "anyOf", "oneOf"):
            found: Counter[str] = Counter()
            for index, option in enumerate(_list(words.get(branch))):
                more, states = self._described(_mapping(option), f"{at}/{branch}/{index}", seen)
                found = found + more if branch == "allOf" else found | more
                stated |= states
            names += found
        reference = words.get("$ref")
        if isinstance(reference, str):
            pointer = self._pointer(reference, at)
            if pointer not in seen and len(seen) < MAX_DEPTH:
                more, states = self._described(_mapping(self._at(pointer)), pointer, (*seen, pointer))
                names += more
                stated |= states
        return names, stated

    def _definition(self, reference: str, at: str, part: _Part | None) -> str:
        """The name of the definition that a reference means, in the role that it has here."""
        key = self._pointer(reference, at), part
        if key not in self._definitions:
            self._definitions[key] = f"d{len(self._definitions)}"
            self._waiting.append((self._definitions[key], *key))
        return self._definitions[key]

    def _pointer(self, reference: str, at: str) -> str:
        """A reference as a JSON pointer into this schema. Raises ``InvalidParameter`` for one that leads elsewhere."""
        own = self._root.get("$id", self._root.get("id"))
        rest = reference.removeprefix(own.rstrip("#")) if isinstance(own, str) else reference
        if rest in ("", "#"):
            return "#"
        if rest.startswith("#/"):
            self._at(unquote(rest), f"the reference {reference!r} at {at}")
            return unquote(rest)
        if rest.startswith("#"):
            for pointer, node in _subschemas(self._root, "#"):
                if node.get("$anchor") == rest[1:] or node.get("$id") == rest or node.get("id") == rest:
                    return pointer
        raise InvalidParameter(
            f"the reference {reference!r} at {at} leads out of the schema; put what it means into '$defs'"
        )

    def _at(self, pointer: str, what: str = "a reference") -> Any:
        node: Any = self._root
        for step in pointer.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(step)] if isinstance(node, list) else node[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise InvalidParameter(f"{what} leads to {pointer}, and nothing is there") from None
        return node


# --- what narrows a schema


def _is_composed(words: Mapping[str, Any]) -> bool:
    """True where several schemas hold for the same value; ``anyOf`` or ``$ref`` alone hand it on to others."""
    return "allOf" in words or "oneOf" in words or (any(word in words for word in COMPOSITIONS) and len(words) > 1)


def _close(schema: dict[str, Any]) -> None:
    """No other properties than those listed, unless the schema speaks of others."""
    listed = schema.get("properties")
    if "additionalProperties" in schema or not (isinstance(listed, dict) or "patternProperties" in schema):
        return
    names = [name for name in _list(schema.get("required")) if isinstance(name, str) and name not in _mapping(listed)]
    if names and "patternProperties" in schema:
        return  # a pattern may describe what is required
    schema["properties"] = {**_mapping(listed), **dict.fromkeys(names, True)}
    schema["additionalProperties"] = False


def _require(options: Any, name: Any) -> None:
    """Every option has the property that tells them apart (OpenAPI's discriminator), even where it has a default."""
    for option in _list(options) if isinstance(name, str) else ():
        if isinstance(option, dict) and name not in _list(option.get("required")):
            option["required"] = [*_list(option.get("required")), name]


def _imply_type(schema: dict[str, Any]) -> None:
    if any(word in schema for word in ("type", "enum", "const", *COMPOSITIONS)):
        return
    kinds = [kind for kind, words in TYPED.items() if any(word in schema for word in words)]
    if kinds:
        schema["type"] = kinds[0] if len(kinds) == 1 else kinds


def _bound_integers(schema: dict[str, Any]) -> None:
    kinds = schema.get("type")
    if kinds != "integer" and not (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds):
        return
    if "minimum" not in schema and "exclusiveMinimum" not in schema:
        schema["minimum"] = 1 - EXACT
    if "maximum" not in schema and "exclusiveMaximum" not in schema:
        schema["maximum"] = EXACT - 1


# --- small things


def _says_nothing(word: str, value: Any) -> bool:
    """True for a constraint whose value allows everything."""
    if word in ("unevaluatedItems", "unevaluatedProperties", "propertyNames"):
        return value is True or value == {} or (word == "propertyNames" and value == {"type": "string"})
    return (word in ("uniqueItems", "not") and value is False) or (word.startswith("depend") and value == {})


def _is_small_multiple(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True  # the library says what is wrong with it
    digits = f"{abs(value):.12f}".replace(".", "").strip("0") or "0"
    return int(digits) <= MAX_MULTIPLE


def _check_constants(value: Any, at: str) -> None:
    """Raises ``InvalidParameter`` for a number that isn't exact, or a character that can't be written."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > EXACT:
        raise InvalidParameter(f"{value} at {at} of the schema is beyond ±2^53, where numbers of JSON aren't exact")
    if isinstance(value, str):
        bad = next((char for char in value if char < " " and char not in "\n\r\b\t\f" or char == "\x7f"), None)
        if bad is not None:
            raise InvalidParameter(f"the text at {at} of the schema has the character {bad!r}, which can't be written")
    for name, part in value.items() if isinstance(value, Mapping) else enumerate(_list(value)):
        _check_constants(part, f"{at}/{_escape(str(name))}")


def _subschemas(node: Any, at: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Everything that could be a subschema."""
    if isinstance(node, Mapping):
        yield at, node
    for name, part in node.items() if isinstance(node, Mapping) else enumerate(_list(node)):
        yield from _subschemas(part, f"{at}/{_escape(str(name))}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
