"""Answers in a shape at the text level: by a tiny model of random weights, which writes whatever it may."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

from whimbrel.backends.llm import LLM
from whimbrel.backends.shape import JsonSchema, Lark, OneOf, Regex
from whimbrel.bench.constrained import cases, read_tools
from whimbrel.errors import InvalidParameter, UnsupportedCapability
from whimbrel.ops import dispatch

TOOLS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mcp_tools"
BIRD = JsonSchema(
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["wader", "owl", "gull"]},
            "name": {"type": "string", "maxLength": 6},
            "weight": {"type": "integer", "minimum": 1, "maximum": 9000},
            "ringed": {"type": "boolean"},
        },
        "required": ["kind", "name", "weight", "ringed"],
    }
)
MESSAGES = [{"role": "user", "content": "Which bird?"}]


def test_an_answer_has_its_shape_and_no_end_token_in_it(llm: LLM) -> None:
    answer = llm.generate(MESSAGES, shape=BIRD, temperature=1.0, seed=5)
    assert answer.finish_reason == "stop" and answer.stop is None
    jsonschema.validate(json.loads(answer.text), BIRD.schema)
    assert answer.token_ids[-1] in llm.tokenizer.eos_token_ids
    assert llm.detokenize(answer.token_ids[:-1]) == answer.text
    assert answer.usage.completion_tokens == len(answer.token_ids)


def test_forced_tokens_come_together_and_change_nothing(llm: LLM) -> None:
    options: dict[str, Any] = {"shape": BIRD, "temperature": 1.0, "seed": 5}
    with llm.stream(MESSAGES, **options) as stream:
        pieces = [piece for piece in stream if piece.token_ids]
    alone = llm.generate(MESSAGES, logprobs=1, **options)
    assert len(pieces) < len(stream.result.token_ids) / 2
    assert "".join(piece.text for piece in pieces) == stream.result.text == alone.text
    assert stream.result.token_ids == alone.token_ids == tuple(score.token_id for score in alone.logprobs)


def test_company_changes_nothing(llm: LLM) -> None:
    prompts = [[{"role": "user", "content": text}] for text in ("Which bird?", "Another one.", "é漢", "And the last?")]
    options: dict[str, Any] = {"shape": BIRD, "temperature": 1.0, "seed": 1}
    together = llm.generate_many(prompts, **options)
    assert [answer.token_ids for answer in together] == [llm.generate(p, **options).token_ids for p in prompts]


def test_an_answer_that_is_cut_says_so(llm: LLM) -> None:
    answer = llm.generate(MESSAGES, shape=BIRD, max_tokens=10)
    assert answer.finish_reason == "length" and len(answer.token_ids) == 10
    assert answer.text.startswith('{"kind": "')


def test_a_stop_string_ends_a_forced_text(llm: LLM) -> None:
    answer = llm.generate("x", shape=OneOf(("a long text that is forced",)), stop=["text"])
    assert answer.text == "a long " and answer.finish_reason == "stop" and answer.stop == "text"


def test_a_text_may_be_continued_in_a_shape(llm: LLM) -> None:
    answer = llm.generate("The weight is ", shape=Regex(r"\d{1,3} g(rams)?"), temperature=1.0, seed=2)
    assert re.fullmatch(r"\d{1,3} g(rams)?", answer.text)


def test_a_conversation_goes_on_from_a_shaped_answer(llm: LLM) -> None:
    chat = llm.session()
    first = chat.send("Which bird?", shape=BIRD, temperature=1.0, seed=3)
    second = chat.send("And now?", shape=OneOf(("yes", "no")), overflow="truncate")
    assert second.text in ("yes", "no")
    assert second.prompt_token_ids[: len(first.prompt_token_ids)] == first.prompt_token_ids
    again = llm.generate(
        [*MESSAGES, {"role": "assistant", "content": first.text}, {"role": "user", "content": "And now?"}],
        shape=OneOf(("yes", "no")),
    )
    assert again.text in ("yes", "no")


def test_a_control_token_of_a_grammar_is_written_but_not_shown(llm: LLM) -> None:
    answer = llm.generate(MESSAGES, shape=Lark('start: "a" <|im_start|> "b"'))
    assert answer.text == "ab" and llm.tokenizer.token_id("<|im_start|>") in answer.token_ids


def test_what_can_not_be_done_is_refused_before_anything_is_computed(llm: LLM) -> None:
    with pytest.raises(InvalidParameter, match="'not' at #"):
        llm.stream(MESSAGES, shape=JsonSchema({"not": {}}))
    with pytest.raises(InvalidParameter, match="ignore_eos"):
        llm.stream(MESSAGES, shape=BIRD, ignore_eos=True)


def test_a_backend_that_enforces_nothing_refuses(scripted: Callable[..., LLM]) -> None:
    if scripted("x").capabilities.constraints:
        pytest.skip("the scripted backend takes grammars")
    with pytest.raises(UnsupportedCapability, match="can't hold an answer to a shape"):
        scripted("x").generate(MESSAGES, shape=BIRD)


small = st.recursive(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "integer", "minimum": 0, "maximum": 99},
            {"type": "string", "maxLength": 4},
            {"type": "string", "format": "date"},
            {"enum": ["a", 1, None]},
            {"type": "string", "pattern": "^[A-Z]{2}$"},
        ]
    ),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, min_size=1).map(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)[:1]}
        ),
        inner.map(lambda items: {"type": "array", "items": items, "minItems": 1, "maxItems": 2}),
        st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=4,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=small, seed=st.integers(0, 1000))
def test_answers_to_random_schemas_are_valid(llm: LLM, schema: dict[str, Any], seed: int) -> None:
    answer = llm.generate(MESSAGES, shape=JsonSchema(schema), temperature=1.0, seed=seed, max_tokens=200)
    with contextlib.suppress(json.JSONDecodeError if answer.finish_reason == "length" else ()):
        jsonschema.validate(
            json.loads(answer.text), schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )


@pytest.mark.skipif(not TOOLS.is_dir(), reason="needs shared/data/mcp_tools")
@pytest.mark.skipif(dispatch.get("attend").why_not("native") is not None, reason="needs the native kernels")
def test_forty_answers_of_the_real_model_are_valid(smollm2: Path) -> None:
    source = cases(read_tools(TOOLS))
    asked = [next(source) for _ in range(40)]
    with LLM(smollm2, context=1024, max_sequences=8, cache_bytes=400 << 20) as model:
        streams = [
            model.stream(
                [{"role": "user", "content": case.prompt}], shape=case.shape, temperature=1.0, seed=i, max_tokens=300
            )
            for i, case in enumerate(asked)
        ]
        answers = [stream.drain() for stream in streams]
    complete = [(case, answer) for case, answer in zip(asked, answers, strict=True) if answer.finish_reason == "stop"]
    assert len(complete) >= 30
    assert [problem for case, answer in complete if (problem := case.check(answer.text))] == []
