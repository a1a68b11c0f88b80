"""Shapes compiled for a tokenizer: whatever they allow is valid, what they can't promise they refuse by name."""

import contextlib
import json
import re
import sqlite3
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from walking import walk

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

from whimbrel.backends.grammar import check_schema, compile_shape, grammar_from_lark, json_rule, text_rule
from whimbrel.backends.shape import JsonObject, JsonSchema, Lark, OneOf, Regex, Shape, Sql
from whimbrel.engine.constrain import Grammar, Matcher
from whimbrel.errors import InvalidParameter, UnsupportedCapability, WhimbrelError
from whimbrel.models.loading import load_text_side
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.testing import tiny

TOOLS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mcp_tools"
EOS = (4, 2)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level BPE of 320 tokens."""
    return load_text_side(tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "llama")).tokenizer


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece vocabulary that puts a space before every text, as Llama 2's and MiniCPM4's do."""
    words = [
        *("▁", "▁the", "the", "th", "name", "▁name", "na", "nam", '{"', '":'),
        *string.ascii_letters,
        *'{}":,[]0123456789',
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(words)]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(tokens) - 259)]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )


def allowed(matcher: Matcher, size: int) -> set[int]:
    logits = np.zeros(size, np.float32)
    matcher.mask(logits)
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def accepts(grammar: Grammar, tokenizer: Tokenizer, text: str) -> bool:
    """May the answer be exactly this text?"""
    matcher = grammar.start()
    try:
        matcher.advance([*(id for char in text for id in tokenizer.encode(char, add_special=False)), EOS[0]])
    except WhimbrelError:
        return False
    return matcher.is_complete


# --- what a matcher does


def test_what_is_forced_is_told_and_the_end_too(tokenizer: Tokenizer) -> None:
    matcher = compile_shape(JsonSchema(PERSON), tokenizer, EOS).start()
    written = ""
    for choice in ('Ada"', ", ", "36}"):
        run = matcher.forced()
        written += tokenizer.decode(run)
        rest = (choice if not choice.startswith(", ") else "").encode()
        matcher.advance(run)
        ids = [id for byte in rest for id in tokenizer.encode(chr(byte), add_special=False)]
        matcher.advance(ids)
        written += rest.decode()
    assert written == '{"name": "Ada", "age": 36}'
    assert matcher.forced() == (EOS[0],) and not matcher.is_complete
    matcher.advance((EOS[0],))
    assert matcher.is_complete and matcher.forced() == ()


def test_forced_text_is_cut_as_the_tokenizer_cuts_it(tokenizer: Tokenizer) -> None:
    text = "The whimbrel is a wader. It reads the shore"
    matcher = compile_shape(OneOf((text,)), tokenizer, EOS).start()
    run = matcher.forced()
    assert tokenizer.decode(run) == text and list(run) == tokenizer.encode(text, add_special=False)


def test_forced_text_is_cut_where_texts_begin_with_a_space(sentences: Tokenizer) -> None:
    matcher = compile_shape(JsonSchema(PERSON), sentences, (2,)).start()
    run = matcher.forced()
    written = b"".join(sentences.token_bytes(id) for id in run).decode()
    assert written and '{"name": "'.startswith(written)
    assert [sentences.token_name(id) for id in run][:2] == ['{"', "name"]


@pytest.mark.parametrize(
    "shape", [JsonSchema(PERSON), JsonObject(), Regex("[a-z é漢]{1,9}"), Sql(), OneOf(("ja", "jab"))]
)
def test_any_vocabulary_writes_any_shape(shape: Shape, sentences: Tokenizer) -> None:
    grammar = compile_shape(shape, sentences, (2,))
    answers = [walk(grammar, sentences, seed, most=400) for seed in range(5)]
    assert any(answers)


def test_rows_behind_the_vocabulary_are_impossible(tokenizer: Tokenizer) -> None:
    grammar = compile_shape(Regex("(?s:.*)"), tokenizer, EOS)
    assert max(allowed(grammar.start(), 384)) < 320
    assert max(allowed(grammar.start(), 300)) < 300  # a network with fewer rows than the tokenizer has tokens
    few = compile_shape(OneOf(("a", "b")), tokenizer, EOS)
    assert allowed(few.start(), 384) == {tokenizer.token_id("a"), tokenizer.token_id("b")}


def test_control_tokens_come_only_where_they_are_named(tokenizer: Tokenizer) -> None:
    special = tokenizer.special_ids
    free = compile_shape(Regex("(?s:.*)"), tokenizer, EOS)
    assert allowed(free.start(), 320) & special == set(EOS)
    as_text = compile_shape(OneOf(("<|im_end|>",)), tokenizer, EOS)
    assert not special.intersection(as_text.start().forced()[:-1])
    named = grammar_from_lark(f"start: {text_rule('<|im_start|>a', tokenizer)}", tokenizer, EOS)
    assert named.start().forced()[0] == tokenizer.token_id("<|im_start|>")


def test_every_ending_id_may_end(tokenizer: Tokenizer) -> None:
    grammar = compile_shape(Regex("a*"), tokenizer, EOS)
    assert allowed(grammar.start(), 320) >= set(EOS)
    for id in EOS:
        matcher = grammar.start()
        matcher.advance((id,))
        assert matcher.is_complete
        with pytest.raises(WhimbrelError, match="ended"):
            matcher.mask(np.zeros(320, np.float32))
        with pytest.raises(WhimbrelError, match="can't follow"):
            matcher.advance((id,))


def test_what_can_not_follow_is_refused(tokenizer: Tokenizer) -> None:
    grammar = compile_shape(Regex("ab"), tokenizer, EOS)
    ids = {char: tokenizer.encode(char, add_special=False)[0] for char in "abc"}
    for wrong in ([ids["b"]], [ids["a"], ids["c"]], [EOS[0]], [ids["a"], EOS[0]]):
        with pytest.raises(WhimbrelError, match="can't follow"):
            grammar.start().advance(wrong)


def test_matchers_of_a_grammar_do_not_know_each_other(tokenizer: Tokenizer) -> None:
    grammar = compile_shape(JsonSchema(PERSON), tokenizer, EOS)
    one, two = grammar.start(), grammar.start()
    first = allowed(two, 320)
    one.advance(one.forced())
    assert allowed(two, 320) == first == allowed(grammar.start(), 320)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), steps=st.integers(0, 40), back=st.integers(0, 40))
@pytest.mark.parametrize("shape", [JsonSchema(PERSON), JsonObject(), Sql(), Regex("(ab|a)*c")])
def test_what_is_taken_back_never_was(shape: Shape, tokenizer: Tokenizer, seed: int, steps: int, back: int) -> None:
    grammar = compile_shape(shape, tokenizer, EOS)
    rng, matcher, ids = np.random.default_rng(seed), grammar.start(), list[int]()
    states = []
    while len(ids) < steps and not matcher.is_complete:
        here = allowed(matcher, 320)
        states.append((here, matcher.forced()))
        ids.append(int(rng.choice(sorted(here))))
        matcher.advance(ids[-1:])
    back = min(back, len(ids))
    matcher.rollback(back)
    assert not matcher.is_complete or back == 0
    for at in range(len(ids) - back, len(ids)):
        assert (allowed(matcher, 320), matcher.forced()) == states[at]
        matcher.advance(ids[at : at + 1])


def test_grammars_are_kept_as_long_as_their_tokenizer(tokenizer: Tokenizer) -> None:
    assert compile_shape(Regex("a+"), tokenizer, EOS) is compile_shape(Regex("a+"), tokenizer, EOS)
    one = compile_shape(JsonSchema({"properties": {"a": {}, "b": {}}}), tokenizer, EOS)
    assert one is not compile_shape(JsonSchema({"properties": {"b": {}, "a": {}}}), tokenizer, EOS)


def test_a_model_without_an_end_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnsupportedCapability, match="ends an answer"):
        compile_shape(JsonObject(), tokenizer, ())


# --- other shapes


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{1,4}", r"\w+@\w+\.(com|org)", r"[^a]{1,4}", "^a|b$", "(?i)abc", "é+|漢字", r"\s{1,3}x", "a/b", r"a\/b", "x*",
        r"[a-z]+?x", r"\x41B\.", "a\nb", r"(?P<year>\d{4})-\d\d",
    ],
)  # fmt: skip
def test_an_expression_matches_whatever_it_allows(pattern: str, tokenizer: Tokenizer) -> None:
    grammar = compile_shape(Regex(pattern), tokenizer, EOS)
    answers = [walk(grammar, tokenizer, seed, most=80) for seed in range(30)]
    assert any(answer is not None for answer in answers)
    for answer in answers:
        assert answer is None or re.fullmatch(pattern, answer), answer


def test_choices_are_the_only_answers(tokenizer: Tokenizer) -> None:
    choices = ("yes", "yes, but", 'a "b"\\\n', "\\u0041\x01", "é漢", "no")
    grammar = compile_shape(OneOf((*choices, "no")), tokenizer, EOS)
    assert {walk(grammar, tokenizer, seed) for seed in range(200)} == set(choices)


SPEAKS_OF_NAMES = re.compile(
    r"no such (table|column)|duplicate|ambiguous column name|circular reference|.*already exists"
)


def sqlite_says(statement: str, *tables: str) -> str | None:
    with sqlite3.connect(":memory:") as database:
        for table in tables:
            database.execute(f"CREATE TABLE {table} (a, b, c)")
        try:
            database.execute(f"EXPLAIN {statement}")
        except sqlite3.Error as error:
            return None if SPEAKS_OF_NAMES.match(str(error)) else f"{error} | {statement}"
    return None


def test_sqlite_takes_every_statement(tokenizer: Tokenizer) -> None:
    grammar = compile_shape(Sql(), tokenizer, EOS)
    statements = [found for seed in range(150) if (found := walk(grammar, tokenizer, seed, most=250))]
    assert {statement.split()[0] for statement in statements} >= {"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"}
    assert [complaint for complaint in map(sqlite_says, statements) if complaint] == []


def test_sqlite_takes_every_statement_about_tables_that_exist(tokenizer: Tokenizer) -> None:
    import whimbrel.backends

    source = (Path(whimbrel.backends.__file__).parent / "grammars" / "sqlite.lark").read_text()
    source = re.sub(r"(?m)^NAME: .*$", "NAME: /[abc]/", source)
    source = re.sub(r"(?m)^QUOTED: .*$", 'QUOTED: /"[abc]"/', source)
    grammar = grammar_from_lark(source, tokenizer, EOS)
    statements = [found for seed in range(400) if (found := walk(grammar, tokenizer, seed, most=250))]
    complaints = [sqlite_says(statement, *"abc") for statement in statements]
    assert [complaint for complaint in complaints if complaint] == []


@pytest.mark.parametrize("name", ["select", "ORDER", "Table", "sqlite_master", '"sqlite_x"'])
def test_words_that_are_taken_are_no_names(name: str, tokenizer: Tokenizer) -> None:
    grammar = compile_shape(Sql(), tokenizer, EOS)
    assert accepts(grammar, tokenizer, "DELETE FROM orders WHERE id = 3;")
    assert not accepts(grammar, tokenizer, f"DELETE FROM {name}")


# --- JSON Schema: what is enforced


@pytest.mark.skipif(not TOOLS.is_dir(), reason="needs shared/data/mcp_tools")
def test_every_schema_of_real_tools_compiles_and_its_answers_are_valid(tokenizer: Tokenizer) -> None:
    tools = [tool for path in sorted(TOOLS.glob("*.tools.json")) for tool in json.loads(path.read_text("utf-8"))]
    assert len(tools) == 225
    answers = 0
    for seed, tool in enumerate(tools):
        schema = tool["inputSchema"]
        validator = jsonschema.validators.validator_for(schema)(
            schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        answer = walk(compile_shape(JsonSchema(schema), tokenizer, EOS), tokenizer, seed, most=500)
        if answer is not None:
            validator.validate(json.loads(answer))
            answers += 1
    assert answers > 200


def schemas() -> st.SearchStrategy[Any]:
    """Schemas of every keyword that is enforced, also in combinations that nobody writes."""
    names = st.sampled_from(["a", "b", "id", "é/~"])
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-99, 10**6),
        st.sampled_from([0.5, -1.25, "", "x", 'a"b\\', "two\nlines", "é漢"]),
    )

    def some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({}, optional=keywords)

    texts = some(
        minLength=st.integers(0, 3),
        maxLength=st.integers(3, 6),
        pattern=st.sampled_from(["^a+$", r"\d", "^[a-z]{2,4}$", "x|y"]),
        format=st.sampled_from(["date", "time", "date-time", "ipv4", "ipv6", "uuid", "email", "uri", "duration"]),
    ).map(lambda words: {"type": "string", **words})
    numbers = some(
        minimum=st.integers(-5, 5),
        maximum=st.sampled_from([5, 7.5, 100]),
        exclusiveMinimum=st.sampled_from([-2, 0.5]),
        exclusiveMaximum=st.integers(8, 20),
        multipleOf=st.sampled_from([1, 2, 5, 0.5]),
    ).flatmap(lambda words: st.sampled_from(["integer", "number"]).map(lambda kind: {"type": kind, **words}))
    leaves = st.one_of(
        texts,
        numbers,
        st.sampled_from([{"type": "boolean"}, {}, True, {"type": ["string", "null"]}, {"type": "object"}]),
        st.sampled_from([{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}]),
        st.lists(scalars, min_size=1, max_size=3).map(lambda values: {"enum": values}),
        scalars.map(lambda value: {"const": value}),
    )

    def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        objects = some(
            type=st.sampled_from(["object", ["object", "null"]]),
            properties=st.dictionaries(names, inner, max_size=3),
            required=st.lists(names, max_size=2, unique=True),
            additionalProperties=st.one_of(st.booleans(), inner),
            patternProperties=st.dictionaries(st.sampled_from(["^p", "^q"]), inner, max_size=1),
            minProperties=st.integers(0, 1),
            maxProperties=st.integers(1, 3),
        )
        arrays = some(
            items=inner,
            prefixItems=st.lists(inner, min_size=1, max_size=2),
            minItems=st.integers(0, 2),
            maxItems=st.integers(2, 3),
        ).map(lambda words: {"type": "array", **words})
        composed = st.one_of(
            *(
                st.lists(inner, min_size=1, max_size=3).map(lambda parts, word=word: {word: parts})  # type: ignore[misc]
                for word in ("anyOf", "oneOf", "allOf")
            )
        )
        both = st.tuples(objects, composed).map(lambda parts: {**parts[0], **parts[1]})
        return st.one_of(objects, arrays, composed, both, objects.map(lambda words: {"$ref": "#/$defs/x", **words}))

    each = st.recursive(leaves, larger, max_leaves=6)
    return st.tuples(each, each, each).map(
        lambda parts: {"$defs": {"x": parts[1], "y": parts[2]}, **(parts[0] if isinstance(parts[0], dict) else {})}
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas(), seed=st.integers(0, 10**6))
def test_answers_are_valid_whatever_the_schema(tokenizer: Tokenizer, schema: dict[str, Any], seed: int) -> None:
    try:
        grammar = compile_shape(JsonSchema(schema), tokenizer, EOS)
    except InvalidParameter:
        return
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    answer = walk(grammar, tokenizer, seed, most=300)
    if answer is not None:
        with contextlib.suppress(RecursionError):  # a reference that leads to itself: the validator goes round
            validator.validate(json.loads(answer))


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
CAT = object_of(kind={"const": "cat"}, lives=WHOLE)
DOG = object_of(kind={"const": "dog"}, tricks={"type": "array", "items": TEXT})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        # objects are closed, unless they say otherwise
        (object_of(a=WHOLE), ['{"a": 1}'], ['{"a": 1, "b": 2}', '{"a":1}', "{}"]),
        ({"properties": {}}, ["{}"], ['{"b": 2}', "1"]),
        ({"type": "object"}, ["{}", '{"b": [2]}'], ["[]"]),
        (object_of(a=WHOLE) | {"additionalProperties": TEXT}, ['{"a": 1, "b": "x"}'], ['{"a": 1, "b": 2}']),
        ({"properties": {"a": WHOLE}, "required": ["b"]}, ['{"a": 1, "b": null}', '{"b": [1]}'], ['{"a": 1}']),
        ({"patternProperties": {"^p": WHOLE}}, ['{"p1": 1}', "{}"], ['{"q": 1}', '{"p1": "x"}']),
        # also where they are composed
        ({"allOf": [object_of(a=WHOLE), object_of(b=WHOLE)]}, ['{"a": 1, "b": 2}'], ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}']),
        ({"$defs": {"x": object_of(a=WHOLE)}, "$ref": "#/$defs/x", **object_of(b=WHOLE)}, ['{"a": 1, "b": 2}'], ['{"a": 1}']),
        (
            {"allOf": [object_of(p=object_of(x=WHOLE)), object_of(p=object_of(y=WHOLE))]},
            ['{"p": {"x": 1, "y": 2}}'],
            ['{"p": {"x": 1}}'],
        ),
        ({"allOf": [object_of(p=object_of(x=WHOLE)), object_of(q=WHOLE)]}, ['{"p": {"x": 1}, "q": 1}'], ['{"p": {"x": 1, "z": 1}, "q": 1}']),
        ({"anyOf": [object_of(a=WHOLE), object_of(b=WHOLE)]}, ['{"a": 1}', '{"b": 1}'], ['{"a": 1, "b": 1}', "{}"]),
        # a oneOf whose options differ in a constant, by references too
        ({"oneOf": [CAT, DOG]}, ['{"kind": "cat", "lives": 9}'], ['{"kind": "dog", "lives": 9}']),
        (
            {"$defs": {"cat": CAT, "dog": DOG}, "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]},
            ['{"kind": "dog", "tricks": ["sit"]}'],
            ['{"kind": "cow", "tricks": []}'],
        ),
        (
            {
                "oneOf": [CAT | {"required": ["lives"]}, DOG | {"required": ["tricks"]}],
                "discriminator": {"propertyName": "kind"},
            },
            ['{"kind": "cat", "lives": 9}'],
            ['{"lives": 9}'],
        ),
        # references
        ({"$defs": {"a": TEXT}, "items": {"$ref": "#/$defs/a"}}, ['["x"]', "[]"], ["[1]", '{"a": 1}']),
        ({"properties": {"next": {"$ref": "#"}}}, ['{"next": {"next": {}}}'], ['{"next": 1}', '{"next": {"x": 1}}']),
        ({"$id": "http://x.org/s", "$defs": {"a/b": TEXT}, "$ref": "http://x.org/s#/$defs/a~1b"}, ['"x"'], ["1"]),
        ({"$defs": {"a": {"$anchor": "here", "type": "null"}}, "$ref": "#here"}, ["null"], ["1"]),
        # numbers
        (WHOLE, ["0", "-17", "9007199254740991"], ["1.0", "1e3", "9007199254740992", "01"]),
        ({"type": "integer", "minimum": 10**16 // 2, "maximum": 10**16 // 2 + 1}, ["5000000000000000"], ["5000000000000002"]),
        ({"type": "number"}, ["1.5", "1e300", "-0.1"], ["+1", ".5"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, ["0.5", "1"], ["0", "1.1"]),
        ({"minimum": 3}, ["3"], ["2", '"3"']),
        # texts
        ({"minLength": 2}, ['"ab"', '"éé"'], ['"a"', "12"]),
        (TEXT | {"format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"2024-04-31"', '"0000-01-01"', '"1900-02-29"']),
        (TEXT | {"format": "date", "pattern": "^2024"}, ['"2024-02-29"'], ['"2020-02-29"']),
        (TEXT | {"format": "date-time"}, ['"2000-02-29T23:59:59.5Z"', '"2000-02-28T00:00:00+01:00"'], ['"2000-02-28T23:59:60Z"']),
        (TEXT | {"format": "int32"}, ['"x"'], ["1"]),
        (TEXT, ['"tab\\t\\"quote\\" é"'], ['"\\u0041"', '"line\nbreak"']),
        # constants, and annotations that constrain nothing
        ({"enum": [1, "a", None, [1, {"b": 2}]], "title": "t", "x-order": 3}, ["1", "null", '[1, {"b": 2}]'], ["2", '"b"']),
        ({"type": ["string", "null"], "default": 3, "examples": [1], "deprecated": True}, ["null", '"x"'], ["3"]),
        (TEXT | {"uniqueItems": False, "propertyNames": True}, ['"x"'], []),
        (True, ["1", '{"a": [null]}'], ["x"]),
    ],
)  # fmt: skip
def test_schemas_mean_what_they_say(schema: Any, good: list[str], bad: list[str], tokenizer: Tokenizer) -> None:
    grammar = compile_shape(JsonSchema(schema), tokenizer, EOS)
    assert [text for text in good if not accepts(grammar, tokenizer, text)] == []
    assert [text for text in bad if accepts(grammar, tokenizer, text)] == []


def test_an_escaped_letter_gets_around_no_name(tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"age": WHOLE}, "additionalProperties": TEXT}
    grammar = compile_shape(JsonSchema(schema), tokenizer, EOS)
    assert accepts(grammar, tokenizer, '{"bge": "x"}')
    assert not accepts(grammar, tokenizer, '{"\\u0061ge": "x"}')


# --- JSON Schema: what is refused


@pytest.mark.parametrize(
    ("schema", "keyword", "place"),
    [
        ({"properties": {"tags": {"type": "array", "uniqueItems": True}}}, "uniqueItems", "#/properties/tags"),
        ({"not": TEXT}, "not", "#"),
        ({"type": "object", "if": {}, "then": {"required": ["a"]}}, "if", "#"),
        ({"items": {"contains": TEXT}}, "contains", "#/items"),
        ({"anyOf": [TEXT, {"dependentRequired": {"a": ["b"]}}]}, "dependentRequired", "#/anyOf/1"),
        ({"propertyNames": {"maxLength": 3}}, "propertyNames", "#"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties", "#"),
        ({"$defs": {"x": {"$dynamicRef": "#x"}}, "$ref": "#/$defs/x"}, "$dynamicRef", "#/$defs/x"),
        ({"properties": {"a/b": {"type": "string", "minLenght": 3}}}, "minLenght", "#/properties/a~1b"),
        ({"type": "string", "format": "iri"}, "format", "#"),
        ({"items": {"type": "string", "pattern": "^(?=a)b"}}, "pattern", "#/items"),
        ({"type": "string", "pattern": r"\bfoo"}, "pattern", "#"),
        ({"type": "string", "pattern": "a("}, "pattern", "#"),
        ({"type": "integer", "multipleOf": 1_000_003}, "multipleOf", "#"),
        ({"additionalProperties": {"type": "object", "minProperties": 3}}, "minProperties", "#/additionalProperties"),
    ],
)
def test_a_keyword_that_can_not_be_kept_is_named(schema: dict[str, Any], keyword: str, place: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        check_schema(schema)
    assert f"{keyword!r} at {place} of the schema" in str(error.value)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"oneOf": [WHOLE, {"type": "number"}]}}}, "#/properties/a: the options of oneOf"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "#: the options of oneOf"),
        ({"oneOf": [{"properties": {"a": WHOLE}, "required": ["a"]}, {"properties": {"b": WHOLE}}]}, "oneOf"),
        (object_of(a=TEXT | {"minLength": 3, "maxLength": 2}), "#/properties/a: Unsatisfiable"),
        ({"properties": {"a": {"type": "strong"}}}, "#/properties/a: Invalid type"),
        ({"items": {"properties": 3}}, "#/items: properties must be an object"),
        ({"items": 3}, "#/items is neither"),
        ({"allOf": {}}, "#: allOf must be an array"),
        ({"enum": [2**53 + 1]}, "#/enum/0"),
        ({"const": "a\0b"}, "#/const"),
        ({"$ref": "#/$defs/nothing"}, "nothing is there"),
        ({"$ref": "https://example.org/schema"}, "leads out of the schema"),
        ({"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"}, "no text satisfies it"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "never ends"),
        ({"$defs": {"x": {"$ref": "#/$defs/x", "required": ["a"]}}, "$ref": "#/$defs/x"}, "circular references"),
        (False, "schema is false"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_where(schema: Any, message: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(message)):
        compile_shape(JsonSchema(schema), tokenizer, EOS)


def test_what_can_not_be_kept_is_left_out_where_that_was_asked_for(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    schema = object_of(a={"type": "array", "items": WHOLE, "uniqueItems": True})
    grammar = compile_shape(JsonSchema(schema, strict=False), tokenizer, EOS)
    assert accepts(grammar, tokenizer, '{"a": [1, 1]}') and not accepts(grammar, tokenizer, '{"a": ["x"]}')
    assert "'uniqueItems' at #/properties/a" in caplog.text


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    names = [f"#/$defs/x{level}" for level in range(levels)]
    parts = {
        f"x{level}": {"allOf": [{"anyOf": [{"$ref": names[level - 1]}] * 2}] * 2} if level else object_of(a=TEXT)
        for level in range(levels)
    }
    return {"$ref": names[-1], "$defs": parts}


@pytest.mark.parametrize(
    "shape",
    [
        lambda: JsonSchema(deep(60)),
        lambda: JsonSchema(deep(5000)),
        lambda: JsonSchema(doubling(40)),
        lambda: JsonSchema({"enum": [f"{i} {i * 7919 % 10007}" for i in range(200_000)]}),
        lambda: Regex("(a?){1000}a{1000}"),
        lambda: Lark('start: "a" start'),
        lambda: OneOf(("the quick brown fox " * 20_000,)),
    ],
    ids=["deep", "deeper", "doubling", "enum", "expression", "endless", "text"],
)
def test_a_shape_that_is_too_much_is_refused(shape: Callable[[], Shape], tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidParameter):
        compile_shape(shape(), tokenizer, EOS)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Lark("start: nothing"), "nothing"),
        (Lark('begin: "a"'), "start"),
        (Lark('start: "a'), "no answer can be held to this"),
        (Lark("start[temperature=0.5]: /a+/"), "'temperature'"),
        (Lark('start: a "b"\na[stop="b", lazy]: /.*/'), "'stop'"),
        (Regex("a(b"), "unclosed group"),
        (Regex(r"(a)\1"), "backreferences are not supported"),
        (Regex("(?<!a)b"), "look-behind"),
    ],
)
def test_syntax_errors_are_explained(shape: Shape, message: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidParameter, match=message):
        compile_shape(shape, tokenizer, EOS)


# --- what tool calls are made of


def test_rules_compose(tokenizer: Tokenizer) -> None:
    call = json_rule(object_of(name={"const": "wait"}, arguments=object_of(seconds=WHOLE)))
    start = text_rule("<|im_start|>call\n", tokenizer)
    grammar = grammar_from_lark(f"start: {start} call\ncall: {call}", tokenizer, EOS)
    matcher = grammar.start()
    text = tokenizer.decode(matcher.forced())
    assert text.startswith('<|im_start|>call\n{"name": "wait", "arguments": {"seconds":')
    with pytest.raises(InvalidParameter, match="'not' at #"):
        json_rule({"not": {}})


def test_text_of_a_rule_is_any_text(tokenizer: Tokenizer, sentences: Tokenizer) -> None:
    for text in ('quote " and \\', "line\nbreak\t", "é漢🙂", "</s><s>", "<s> name", " <s>  x ", "\x01\x7f", "/* # //"):
        for vocabulary, eos in ((tokenizer, EOS), (sentences, (2,))):
            ids: list[int] = []
            matcher = grammar_from_lark(f"start: {text_rule(text, vocabulary)}", vocabulary, eos).start()
            while run := matcher.forced():
                matcher.advance(run)
                ids += run
            assert matcher.is_complete
            assert b"".join(vocabulary.token_bytes(id) for id in ids[:-1]).decode() == text
