"""Tools and thinking at the text level: any backend, a tiny model under grammars, and the real one with real schemas."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whimbrel.backends.executor import FinishReason, Request
from whimbrel.backends.llm import LLM
from whimbrel.backends.open import OpenModel
from whimbrel.backends.results import Piece, ToolCall
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.backends.shape import JsonSchema, OneOf, Regex
from whimbrel.errors import InvalidParameter, UnsupportedCapability, UsageError
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.loading import load_text_side
from whimbrel.ops import dispatch
from whimbrel.testing import templates, tiny

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")

Scripted = Callable[..., LLM]
Message = dict[str, Any]

QUESTION: Message = {"role": "user", "content": "What is the weather?"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def tool(name: str = "weather", schema: Any = SCHEMA, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "", "parameters": schema, **more}}


TOOLS = [tool(), tool("stop", {"type": "object", "properties": {}})]


def requests_of(llm: LLM) -> list[Request]:
    assert isinstance(llm.executor, ScriptedExecutor)
    return llm.executor.requests


def values(calls: Sequence[ToolCall]) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


# --- any backend


def test_text_and_calls_are_parted(scripted: Scripted) -> None:
    llm = scripted(f"On it. \n{CALL}\n{CALL}\n", template=templates.HERMES)
    stream = llm.stream([QUESTION], tools=TOOLS)
    pieces = list(stream)
    answer = stream.result
    assert answer.text == "On it." == "".join(piece.text for piece in pieces)
    assert values(answer.tool_calls) == [("weather", {"city": "Rome"})] * 2
    assert answer.finish_reason == FinishReason.STOP and llm.tool_format == "hermes" and not llm.tool_notice
    first, second = answer.tool_calls
    assert first.id != second.id and first.id.startswith("call_")
    parts = [part for piece in pieces for part in piece.tool_calls]
    assert [(part.index, part.id, part.name) for part in parts if part.id] == [
        (0, first.id, "weather"),
        (1, second.id, "weather"),
    ]
    assert "".join(part.arguments for part in parts if part.index == 1) == second.arguments
    assert len(parts) > 10, "arguments come as they are written"
    assert '"weather"' in llm.detokenize(answer.prompt_token_ids)


def test_without_tools_a_call_is_text(scripted: Scripted) -> None:
    llm = scripted(CALL, template=templates.HERMES)
    assert llm.chat([QUESTION]).text == CALL
    none = llm.chat([QUESTION], tools=TOOLS, tool_choice="none")
    assert none.text == CALL and not none.tool_calls
    assert '"weather"' in llm.detokenize(none.prompt_token_ids), "tools are shown, so that the cache stays what it is"


ANSWERS = [
    f"<think>\nIt's <b>.\n</think>\n\nSure: {CALL}",
    f"{CALL}\n{CALL}",
    '<tool_call>\n{"name": "no", "arguments": {}}\n</tool_call> END',
    "No <tool_call, no END of it",
    '<think>END</think><tool_call>{"name": "weather", "arguments": {"city": "END"}}</tool_call>',
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(0, 120), max_size=30))
def test_every_cut_gives_the_same_answer(checkpoint: Path, text: str, cuts: list[int]) -> None:
    side = load_text_side(checkpoint)

    def answer(ends: list[int]) -> tuple[Any, ...]:
        ends = sorted({min(end, len(text)) for end in ends} | {len(text)})
        chunks = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        ids = [id for chunk in chunks for id in side.tokenizer.encode(chunk, add_special=False)]
        llm = LLM(
            OpenModel(
                executor=ScriptedExecutor([[*ids, 2]]),
                tokenizer=side.tokenizer,
                chat_template=ChatTemplate(templates.QWEN3),
                generation_config={},
            )
        )
        found = llm.chat([QUESTION], tools=TOOLS, stop="END")
        return found.reasoning, found.text, values(found.tool_calls), found.stop

    assert answer(cuts) == answer(list(range(len(text))))


def test_stop_strings_end_what_is_said_only(scripted: Scripted) -> None:
    told = '<think>END</think><tool_call>{"name": "weather", "arguments": {"city": "END"}}</tool_call>'
    llm = scripted(told, f"Bye END {CALL}", template=templates.QWEN3)
    whole = llm.chat([QUESTION], tools=TOOLS, stop="END")
    assert (
        whole.stop is None and whole.reasoning == "END" and values(whole.tool_calls) == [("weather", {"city": "END"})]
    )
    cut = llm.chat([QUESTION], tools=TOOLS, stop="END")
    assert cut.stop == "END" and cut.text == "Bye " and not cut.tool_calls


def test_a_stream_that_is_left_keeps_what_it_has(scripted: Scripted) -> None:
    llm = scripted(CALL, template=templates.HERMES)
    with llm.stream([QUESTION], tools=TOOLS) as stream:
        while not any(part.arguments for part in next(stream).tool_calls):
            pass
    (call,) = stream.result.tool_calls
    assert call.name == "weather" and call.arguments == "{" and stream.result.finish_reason == FinishReason.ABORT
    with llm.stream([QUESTION], tools=TOOLS) as stream:
        next(stream)
    assert stream.result.text == "<", "what was held back is part of the result"


def test_an_answer_that_is_cut_off_has_the_call_so_far(scripted: Scripted) -> None:
    llm = scripted(CALL, template=templates.HERMES)
    answer = llm.chat([QUESTION], tools=TOOLS, max_tokens=len(CALL) - 20)
    assert answer.finish_reason == FinishReason.LENGTH and answer.tool_calls[0].arguments.startswith('{"city"')
    llm.chat([QUESTION, {"role": "assistant", "content": "x"}, QUESTION], tools=TOOLS)


# --- thinking


def test_thinking_is_parted(scripted: Scripted) -> None:
    llm = scripted("<think>\nHm.\n</think>\n\nYes.", template=templates.QWEN3)
    assert llm.thinks
    stream = llm.stream([QUESTION])
    pieces: list[Piece] = list(stream)
    assert stream.result.reasoning == "Hm." == "".join(piece.reasoning for piece in pieces)
    assert stream.result.text == "Yes." == "".join(piece.text for piece in pieces)
    assert llm.generate("Text").text.startswith("<think>"), "a text is continued as it stands"


def test_a_template_may_open_or_close_the_tag(scripted: Scripted) -> None:
    opened = scripted("Hm.\n</think>\n\nYes.", template=templates.DEEPSEEK).chat([QUESTION])
    assert (opened.reasoning, opened.text) == ("Hm.", "Yes.")
    closed = scripted("Yes.", template=templates.QWEN3)
    answer = closed.chat([QUESTION], template={"enable_thinking": False})
    assert (answer.reasoning, answer.text) == ("", "Yes.")
    assert closed.detokenize(answer.prompt_token_ids).endswith("<think>\n\n</think>\n\n")
    assert not scripted("a").thinks


def test_a_session_thinks_too(scripted: Scripted) -> None:
    llm = scripted("Hm.\n</think>\n\nYes.", template=templates.DEEPSEEK)
    chat = llm.session()
    assert chat.send("Why?").text == "Yes."
    assert chat.messages[-1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert chat.send("Really?").reasoning == "Hm."


# --- the next turn


def turn_of(answer: Any) -> list[Message]:
    """The answer and its results, as a client sends them back."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in answer.tool_calls
    ]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"sunny {n}"} for n, call in enumerate(answer.tool_calls)
    ]
    return [{"role": "assistant", "content": answer.text or None, "tool_calls": calls}, *results]


COMPACT = '<tool_call>{"name":"weather","arguments":{"city":"Rome"}}</tool_call>'
PYTHON = "<|tool_call_start|>\n```python\nweather(city='Rome')\n```\n<|tool_call_end|>"


@pytest.mark.parametrize("template, written", [
    (templates.HERMES, COMPACT), (templates.QWEN3, f"<think>\nHm.\n</think>\n\nSure.\n{COMPACT}\n{COMPACT}"),
    (templates.SMOLLM, f"<tool_call>[{COMPACT[11:-12]}]</tool_call>"), (templates.MINICPM, PYTHON),
    (templates.LLAMA, '{"name":"weather", "parameters":{"city":"Rome"}}'), (tiny.CHAT_TEMPLATE, f"Sure. {COMPACT}"),
    (templates.XML, COMPACT),
])  # fmt: skip
def test_a_turn_with_calls_keeps_the_ids_that_were_written(scripted: Scripted, template: str, written: str) -> None:
    llm = scripted(written, "Sunny.", "Bye.", template=template)
    first = llm.chat([QUESTION], tools=TOOLS)
    assert values(first.tool_calls)[0] == ("weather", {"city": "Rome"})
    history = [QUESTION, *turn_of(first)]
    second = llm.chat(history, tools=TOOLS)
    read = (*first.prompt_token_ids, *first.token_ids[:-1])
    assert second.prompt_token_ids[: len(read)] == read, "only what is new is read"
    new = llm.detokenize(second.prompt_token_ids[len(read) :])
    assert "sunny 0" in new and llm.render(history, tools=TOOLS).endswith(new), (
        "and that is what the template makes of it"
    )
    third = llm.chat(
        [*history, {"role": "assistant", "content": "Sunny."}, {"role": "user", "content": "Bye"}], tools=TOOLS
    )
    if "<think>" not in written:  # Qwen3's template takes thoughts out once the user speaks again
        assert third.prompt_token_ids[: len(read)] == read


def test_a_history_that_was_changed_is_read_as_it_is_told(scripted: Scripted) -> None:
    llm = scripted(COMPACT, "Sunny.", template=templates.HERMES)
    turns = turn_of(llm.chat([QUESTION], tools=TOOLS))
    turns[0]["tool_calls"][0]["function"]["arguments"] = '{"city": "Oslo"}'
    changed = llm.chat([QUESTION, *turns], tools=TOOLS)
    assert llm.detokenize(changed.prompt_token_ids) == llm.render([QUESTION, *turns], tools=TOOLS)
    assert "Oslo" in llm.detokenize(changed.prompt_token_ids)


def test_a_conversation_that_is_cut_keeps_its_tools(scripted: Scripted) -> None:
    llm = scripted("a", template=templates.HERMES, max_context=700)
    turns = [{"role": role, "content": f"{n} words"} for n in range(30) for role in ("user", "assistant")]
    answer = llm.chat([*turns, QUESTION], tools=TOOLS, max_tokens=8, overflow="truncate")
    shown = llm.detokenize(answer.prompt_token_ids)
    assert answer.usage.truncated_tokens > 0 and '"weather"' in shown and "0 words" not in shown.split("29")[0]


# --- what is refused


def test_what_can_t_be_held_is_refused(scripted: Scripted) -> None:
    llm = scripted("a", template=templates.HERMES)
    for options in ({"tool_choice": "required"}, {"tool_choice": "weather"}, {"shape": OneOf(("a",))}):
        with pytest.raises(UnsupportedCapability, match="the native one can"):
            llm.chat([QUESTION], tools=TOOLS, **options)
    with pytest.raises(UnsupportedCapability):
        llm.chat([QUESTION], tools=[tool(strict=True)])
    assert llm.chat([QUESTION], tools=[tool(strict=True)], tool_choice="none").text == "a"
    assert not requests_of(llm)[-1].grammar


def test_bad_tools_are_explained(scripted: Scripted) -> None:
    llm = scripted("a")
    with pytest.raises(UsageError, match="tools belong to a conversation"):
        llm.generate("text", tools=TOOLS)
    with pytest.raises(InvalidParameter, match="tool_choice='storm' is unknown; there are none, auto"):
        llm.chat([QUESTION], tools=TOOLS, tool_choice="storm")
    with pytest.raises(InvalidParameter, match="without tools"):
        llm.chat([QUESTION], tool_choice="required")
    with pytest.raises(UsageError, match=r"messages\[1\].tool_calls\[0\] has no name"):
        llm.chat([QUESTION, {"role": "assistant", "tool_calls": [{"id": "x"}]}])
    assert llm.tool_format == "generic" and "knows no tools" in llm.tool_notice
    llm.chat_template = None
    assert llm.tool_format is None and not llm.thinks
    with pytest.raises(UsageError, match="no chat template"):
        llm.chat([QUESTION], tools=TOOLS)


# --- a tiny model under grammars


MARKS = (
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "[TOOL_CALLS]",
)


@pytest.fixture(scope="module", params=["text", "control tokens"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose vocabulary has the marks as control tokens, or not."""
    path = tmp_path_factory.mktemp("tools") / "model"
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "text":
            patch.setattr(tiny, "SPECIAL_TOKENS", (*tiny.SPECIAL_TOKENS, *MARKS))
        return tiny.write_checkpoint(path, "llama")


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[LLM]:
    pytest.importorskip("llguidance")
    with LLM(folder, context=1024, kv_dtype="f32" if WHY_NO_NATIVE else "bf16") as model:
        yield model


@pytest.fixture
def speaking(small: LLM) -> Callable[[str], LLM]:
    """The tiny model with another chat template."""

    def speak(source: str) -> LLM:
        template = ChatTemplate(source)
        return LLM(
            OpenModel(executor=small.executor, tokenizer=small.tokenizer, generation_config={}, chat_template=template)
        )

    return speak


BY_NAME = {entry["function"]["name"]: entry["function"]["parameters"] for entry in TOOLS}
SOURCES = {
    "hermes": templates.HERMES, "smollm": templates.SMOLLM, "mistral": templates.MISTRAL, "llama": templates.LLAMA,
    "minicpm": templates.MINICPM, "generic": tiny.CHAT_TEMPLATE,
}  # fmt: skip


def check(calls: Sequence[ToolCall]) -> None:
    """Every call is valid under its tool's schema."""
    validators = pytest.importorskip("jsonschema_rs")
    for name, arguments in values(calls):
        validators.validator_for(BY_NAME[name]).validate(arguments)


@pytest.mark.parametrize("name", SOURCES)
def test_forced_calls_are_calls(speaking: Callable[[str], LLM], name: str) -> None:
    llm = speaking(SOURCES[name])
    assert llm.tool_format == name
    ended = 0
    for seed in range(6):
        options = {"tools": TOOLS, "temperature": 1.5, "seed": seed, "max_tokens": 150}
        several = llm.chat([QUESTION], tool_choice="required", **options)
        if several.finish_reason == "stop":
            assert several.text == "" and several.tool_calls
        check(several.tool_calls if several.finish_reason == "stop" else several.tool_calls[:-1])
        one = llm.chat([QUESTION], tool_choice="required", parallel_tool_calls=False, **options)
        named = llm.chat([QUESTION], tool_choice="stop", parallel_tool_calls=False, **options)
        for answer in (one, named):
            if answer.reasoning:  # a random model has no end of thinking
                continue
            ended += 1
            assert answer.text == "" and len(answer.tool_calls) == 1 and answer.finish_reason == "stop"
            check(answer.tool_calls)
        assert named.reasoning or values(named.tool_calls) == [("stop", {})]
    assert ended >= 2


@pytest.mark.parametrize("name", SOURCES)
def test_a_call_that_was_begun_is_held_to_its_schema(speaking: Callable[[str], LLM], name: str) -> None:
    """``logit_bias`` makes the model want to begin a call, and ``<`` or ``{`` where that is text."""
    llm = speaking(SOURCES[name])
    begin = llm._dialect.tools.format.begin or '{"name"'
    ids = llm.tokenize(begin, add_special=False, parse_special=True)
    bias = {ids[0]: 60.0}
    grammar = llm._grammar(None, llm._dialect.thinking([]), llm._dialect.plan(TOOLS, "auto", parallel=False))
    assert grammar is not None
    matcher = grammar.start()
    matcher.advance(ids)
    assert matcher.forced(), "the rest of the call's beginning"
    free = llm.chat([QUESTION], tools=TOOLS, max_tokens=12, temperature=1.0, seed=1, logit_bias={ids[0]: -100})
    assert free.token_ids and not free.tool_calls
    if len(ids) == 1:
        begun = llm.chat([QUESTION], tools=TOOLS, max_tokens=200, seed=1, logit_bias=bias, parallel_tool_calls=False)
        assert len(begun.tool_calls) == 1 and begun.finish_reason == "stop"
        check(begun.tool_calls)
    none = llm._grammar(None, llm._dialect.thinking([]), llm._dialect.plan(TOOLS, "none", parallel=True))
    assert none is not None
    with pytest.raises(Exception, match="can't"):
        none.start().advance(ids)


def test_thinking_comes_before_what_is_constrained(speaking: Callable[[str], LLM]) -> None:
    shape = JsonSchema(SCHEMA)
    for source in (templates.QWEN3, templates.DEEPSEEK):
        llm = speaking(source)
        prompt = llm.prompt_ids([QUESTION])
        mark = "<tool_call>" if llm.tokenizer.token_id("<tool_call>") is None else "<tool"
        thought = f"Hm, {{}} {mark} no.\n</think>\n\n"
        thought = thought if source == templates.DEEPSEEK else f"<think>\n{thought}"
        for plan, answer in ((None, '{"city": "Oslo"}'), (llm._dialect.plan(TOOLS, "required", parallel=False), CALL)):
            grammar = llm._grammar(shape if plan is None else None, llm._dialect.thinking(prompt), plan)
            assert grammar is not None
            matcher = grammar.start()
            matcher.advance(llm.tokenize(thought + answer, add_special=False, parse_special=True))
            assert matcher.forced() == (4,), "the end"
    closed = speaking(templates.QWEN3)
    said = closed.chat([QUESTION], shape=shape, template={"enable_thinking": False}, max_tokens=99)
    assert json.loads(said.text)["city"] in ("Rome", "Oslo") and said.reasoning == ""


def test_a_shape_beside_tools_is_that_of_the_text(speaking: Callable[[str], LLM]) -> None:
    llm = speaking(templates.HERMES)
    answers = [
        llm.chat([QUESTION], tools=TOOLS, shape=OneOf(("Yes.", "No.")), temperature=1.0, seed=seed, max_tokens=300)
        for seed in range(8)
    ]
    for answer in answers:
        check(answer.tool_calls[:-1])
        assert answer.tool_calls or answer.text in ("Yes.", "No.")
    never = llm.chat([QUESTION], tools=TOOLS, shape=OneOf(("Yes.",)), tool_choice="none", max_tokens=20)
    assert never.text == "Yes."
    always = llm.chat([QUESTION], tools=TOOLS, shape=OneOf(("Yes.",)), tool_choice="stop", parallel_tool_calls=False)
    assert values(always.tool_calls) == [("stop", {})] and not always.text
    with pytest.raises(InvalidParameter, match="whose calls look like any JSON"):
        speaking(templates.LLAMA).chat([QUESTION], tools=TOOLS, shape=Regex("a"))


def test_a_schema_that_can_t_be_enforced_names_its_tool(speaking: Callable[[str], LLM]) -> None:
    odd = tool("odd", {"type": "object", "properties": {"x": {"not": {"type": "null"}}}})
    llm = speaking(templates.HERMES)
    for tools, choice in (([odd], "required"), ([tool("odd", odd["function"]["parameters"], strict=True)], "auto")):
        with pytest.raises(InvalidParameter, match=r"calls of the tool 'odd' can't be held to its schema.*not"):
            llm.chat([QUESTION], tools=tools, tool_choice=choice)
    assert llm.chat([QUESTION], tools=[odd], max_tokens=3).token_ids
    spread = tool("spread", {"type": "object", "properties": {"x": {}}, "patternProperties": {"^a": {"type": "null"}}})
    with pytest.raises(InvalidParameter, match="'spread'.*patternProperties: a call with Python's keywords"):
        speaking(templates.MINICPM).chat([QUESTION], tools=[spread], tool_choice="required")


# --- the real model


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Iterator[LLM]:
    pytest.importorskip("llguidance")
    if WHY_NO_NATIVE is not None:
        pytest.skip(WHY_NO_NATIVE)
    with LLM(smollm2, context=3072, max_sequences=4, cache_bytes=200 << 20) as model:
        yield model


def test_the_real_model_calls_real_tools(real: LLM) -> None:
    validators = pytest.importorskip("jsonschema_rs")
    files = sorted((Path(__file__).parents[3] / "shared" / "data" / "mcp_tools").glob("*.json"))
    if not files:
        pytest.skip("needs ../shared/data/mcp_tools")
    known = [entry for file in files for entry in json.loads(file.read_text(encoding="utf-8"))]
    finished = 0
    for number, entry in enumerate(random.Random(4).sample(known, 12)):
        name, schema = entry["name"], entry["inputSchema"]
        answer = real.chat(
            f"Use {name}.",
            tools=[tool(name, schema)],
            tool_choice=("required", name)[number % 2],
            parallel_tool_calls=False,
            max_tokens=160,
        )
        (call,) = answer.tool_calls
        assert call.name == name and answer.text == ""
        if answer.finish_reason == "stop":
            finished += 1
            validators.validator_for(schema).validate(json.loads(call.arguments))
    assert finished >= 6


def test_the_real_model_reads_only_what_is_new_after_a_call(real: LLM) -> None:
    first = real.chat([QUESTION], tools=TOOLS, tool_choice="weather", parallel_tool_calls=False, max_tokens=60)
    second = real.chat([QUESTION, *turn_of(first)], tools=TOOLS, max_tokens=10)
    read = (*first.prompt_token_ids, *first.token_ids[:-1])
    assert second.prompt_token_ids[: len(read)] == read
    forced = len(real.tokenize('"}}\n</tool_call>', add_special=False))  # the call's end, which nobody had to compute
    assert second.usage.cached_tokens >= len(read) - forced - 1
