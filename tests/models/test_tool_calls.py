"""Tool calls as text: read from pieces cut anywhere, written back by every kind of chat template."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.tool_calls.arguments import read_keywords
from whimbrel.models.tool_calls.format import GENERIC, HERMES, LLAMA, MINICPM, MISTRAL, SMOLLM, ToolFormat
from whimbrel.models.tool_calls.parse import CallParser, CallPart
from whimbrel.models.tool_calls.template import NO_TOOLS, UNKNOWN_NOTATION, ToolTemplate
from whimbrel.models.tool_calls.tool import check_choice, read_tools
from whimbrel.testing import templates, tiny

FORMATS = (HERMES, SMOLLM, MISTRAL, LLAMA, MINICPM)
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}}
TOOLS = read_tools([{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "g-h")])

Parsed = tuple[str, list[tuple[str, str]]]


def parse(format: ToolFormat, text: str, cuts: Sequence[int] = ()) -> Parsed:
    """What is said, and the calls as name and arguments."""
    parser = CallParser(format, TOOLS)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    events = [event for start, end in zip([0, *ends], ends, strict=False) for event in parser.feed(text[start:end])]
    events += parser.finish()
    said = "".join(event for event in events if isinstance(event, str))
    calls: list[tuple[str, str]] = []
    for part in (event for event in events if isinstance(event, CallPart)):
        if part.name:
            assert part.index == len(calls)
            calls.append((part.name, part.arguments))
        else:
            name, arguments = calls[part.index]
            calls[part.index] = (name, arguments + part.arguments)
    return said, calls


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["</tool_call>", '"}}', "')", "a\\", "```\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["x", "y", "z_1"]), VALUES, max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(["f", "g-h"]), ARGUMENTS), min_size=1, max_size=3)
CUTS = st.lists(st.integers(0, 400), max_size=30)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@settings(max_examples=150, deadline=None)
@given(calls=CALLS, cuts=CUTS, before=st.sampled_from(["", "Sure.\n\n", "1 < 2 <tool {"]))
def test_every_cut_gives_the_same_calls(format: ToolFormat, calls: list[Any], cuts: list[int], before: str) -> None:
    before = before if format.begin else ""
    said, found = parse(format, before + format.write(calls), cuts)
    assert said == before.rstrip()
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


FRAGMENTS = (
    "<tool_call>", "</tool_call>", "<tool", "\n", " ", '{"name": "f", "arguments": ', '{"name": "no", "arguments": ', "{}",
    '{"x": 1}', "}", '{"x', '"', "]", "[", "f(", "x=1", ")", "g-h()", "```python\n", "```", "[TOOL_CALLS]", "text",
    "<|tool_call_start|>", "<|tool_call_end|>", "<|python_tag|>", ",", ";", "\\", "'",
)  # fmt: skip


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=14), cuts=CUTS)
def test_whatever_a_model_writes_nothing_is_lost(format: ToolFormat, parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    said, calls = parse(format, text, cuts)
    assert (said, calls) == parse(format, text)
    if not calls:
        assert said == text


@pytest.mark.parametrize("format, text, said, calls", [
    (HERMES, "Hi <b> \n", "Hi <b> \n", []),
    (HERMES, 'a\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n', "a", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"arguments":{"x":1},"name":"f"}</tool_call>', "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name":"f","parameters":{"x":1}}</tool_call>', "", [("f", '{"x":1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1}', "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1}\n</tool_call>b', "b", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1}, "id": "}"}</tool_call>', "", [("f", '{"x": 1}')]),
    (HERMES, '<tool_call>\n```json\n{"name": "f", "arguments": {}}\n```\n</tool_call>', "", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": [1}}</tool_call>b', "b", [("f", '{"x": [1}}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x', "", [("f", '{"x')]),
    (HERMES, '<tool_call>{"name": "no", "arguments": {}}</tool_call>', '<tool_call>{"name": "no", "arguments": {}}</tool_call>', []),
    (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', []),
    (HERMES, "<tool_call>what?</tool_call>", "<tool_call>what?</tool_call>", []),
    (HERMES, '<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
    (LLAMA, '<|python_tag|>{"name": "f", "parameters": {"x": 1}}', "", [("f", '{"x": 1}')]),
    (LLAMA, 'So: {"name": "f", "parameters": {"x": 1}}', 'So: {"name": "f", "parameters": {"x": 1}}', []),
    (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abcdefghi"}]', "", [("f", "{}")]),
    (MINICPM, "<|tool_call_start|>\n```python\nf(x=-1, y='a-b')\n```\n<|tool_call_end|>\nOn it.", "On it.",
     [("f", '{"x": -1, "y": "a-b"}')]),
    (MINICPM, "<|tool_call_start|>[f(1, true), g-h()]<|tool_call_end|>", "", [("f", '{"x": 1, "y": true}'), ("g-h", "{}")]),
    (MINICPM, "<|tool_call_start|>f(x=open('a'))<|tool_call_end|>", "<|tool_call_start|>f(x=open('a'))<|tool_call_end|>", []),
])  # fmt: skip
def test_calls_and_what_only_looks_like_them(format: ToolFormat, text: str, said: str, calls: list[Any]) -> None:
    assert parse(format, text) == parse(format, text, range(len(text))) == (said, calls)


def test_name_and_arguments_come_as_they_are_written() -> None:
    parser = CallParser(HERMES, TOOLS)
    assert parser.feed('On it.\n<tool_call>\n{"name": "f"') == ["On it."]
    assert parser.feed(', "arguments": {"y": ') == [CallPart(0, "f", '{"y": ')]
    assert parser.feed('"a} b') == [CallPart(0, "", '"a} b')]
    assert parser.feed('"}}\n</tool_') == [CallPart(0, "", '"}')]
    assert parser.feed("call>") == [] == parser.finish()


@pytest.mark.parametrize("text, values", [
    ("()", {}), ("(x=1,)", {"x": 1}), ("(x=+5, y=-5)", {"x": 5, "y": -5}), ("(1, y=2)", {"x": 1, "y": 2}),
    ("(x=[True, null, None], y={'a': (1, 2)})", {"x": [True, None, None], "y": {"a": [1, 2]}}),
    ("(x='''it's''', y=\"a\\/b\")", {"x": "it's", "y": "a/b"}), ("(class=1, from_=2)", {"class": 1, "from_": 2}),
])  # fmt: skip
def test_python_s_arguments(text: str, values: dict[str, Any]) -> None:
    assert read_keywords(text, ["x", "y"]) == values


@pytest.mark.parametrize(
    "text", ["(x=1", "(x=)", "(x=a)", "(x=f())", "(x={1, 2})", "(x=1, x=2)", "(x=1,,y=2)", "(not True)"]
)
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_keywords(text)


# --- tools as they come


@pytest.mark.parametrize("tools, message", [
    ([{"type": "web_search"}], r"tools\[0\] is no tool"),
    ([{"type": "function"}], r"tools\[0\].function is missing"),
    ([{"type": "function", "function": {}}], r"tools\[0\].function.name=None"),
    ([{"function": {"name": "f", "parameters": {"type": "string"}}}], r"no JSON schema of an object"),
    ([{"function": {"name": "f"}}, {"function": {"name": "f"}}], r"tools\[1\] is called 'f' as another one"),
    (["f"], r"tools\[0\] is no tool"),
])  # fmt: skip
def test_what_is_no_tool_is_named(tools: list[Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        read_tools(tools)


def test_choices() -> None:
    for choice in ("none", "auto", "required", "f"):
        check_choice(choice, TOOLS)
    check_choice("auto", ())
    with pytest.raises(InvalidParameter, match="there are none, auto, required, f, g-h"):
        check_choice("h", TOOLS)
    with pytest.raises(InvalidParameter, match="without tools"):
        check_choice("required", ())


# --- chat templates


def call(name: str, arguments: Any, id: str = "call_1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


QUESTION: dict[str, Any] = {"role": "user", "content": "What is it?"}
HISTORY: list[dict[str, Any]] = [
    QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [call("f", '{"x": 1, "y": "<é>"}')]},
    {"role": "tool", "tool_call_id": "call_1", "content": "42"},
]


@pytest.mark.parametrize("source, format, notice", [
    (templates.HERMES, HERMES, ""), (templates.HERMES_STRICT, HERMES, ""), (templates.QWEN3, HERMES, ""),
    (templates.TEXT_ARGUMENTS, HERMES, ""), (templates.SMOLLM, SMOLLM, ""), (templates.MINICPM, MINICPM, ""),
    (templates.LLAMA, LLAMA, ""), (templates.MISTRAL, MISTRAL, ""), (templates.XML, GENERIC, UNKNOWN_NOTATION),
    (templates.DEEPSEEK, GENERIC, NO_TOOLS), (tiny.CHAT_TEMPLATE, GENERIC, NO_TOOLS),
    (templates.NO_SYSTEM, GENERIC, NO_TOOLS),
])  # fmt: skip
def test_a_template_s_notation_is_found(source: str, format: ToolFormat, notice: str) -> None:
    found = ToolTemplate(ChatTemplate(source))
    assert found.format == format and found.notice == notice and found.native == (not notice)
    shown = found.render(HISTORY, TOOLS)
    written = shown[shown.rindex("What is it?") :]
    assert parse(format, _answer(format, written))[1] == [("f", '{"x": 1, "y": "<é>"}')]
    assert "42" in written and "g-h" in shown[: -len(written)]
    with pytest.raises(UsageError, match=r"messages\[1\].tool_calls\[0\].* is no JSON"):
        found.render([QUESTION, {"role": "assistant", "tool_calls": [call("f", "{x")]}], TOOLS)


def _answer(format: ToolFormat, written: str) -> str:
    return written if format.begin else written[written.index('{"name"') :]


def test_what_is_unknown_is_told_in_the_system_message() -> None:
    found = ToolTemplate(ChatTemplate(tiny.CHAT_TEMPLATE))
    several = [*HISTORY, {"role": "tool", "content": "43"}, {"role": "user", "content": "And?"}]
    shown = found.render([{"role": "system", "content": "Be brief."}, *several], TOOLS)
    system, user, assistant, results, more, *_ = shown.split("<|im_end|>\n")
    assert system.startswith("<|im_start|>system\nBe brief.\n\nYou can call tools.") and '"name": "g-h"' in system
    assert user == "<|im_start|>user\nWhat is it?" and more == "<|im_start|>user\nAnd?"
    assert (
        assistant
        == '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"x": 1, "y": "<é>"}}\n</tool_call>'
    )
    assert results.startswith("<|im_start|>user\n<tool_response>\n42\n</tool_response>\n<tool_response>\n43\n")
    assert ToolTemplate(ChatTemplate(templates.NO_SYSTEM)).render([QUESTION], TOOLS).count("<|im_start|>") == 2
    assert found.render([QUESTION]) == ChatTemplate(tiny.CHAT_TEMPLATE).render([QUESTION])


def test_what_templates_want_beside_the_call_itself() -> None:
    """A name with each result, no empty list of calls, ids of nine characters, thoughts by their own name."""
    strict: Callable[..., str] = ToolTemplate(ChatTemplate(templates.HERMES_STRICT)).render
    assert "<|im_start|>tool\nf: 42" in strict(HISTORY, TOOLS)
    assert "Yes." in strict([QUESTION, {"role": "assistant", "content": "Yes.", "tool_calls": []}], TOOLS)
    mistral = ToolTemplate(ChatTemplate(templates.MISTRAL)).render(HISTORY, TOOLS)
    id = mistral.partition('"id": "')[2][:9]
    assert f"[TOOL_RESULTS]{id} 42" in mistral
    turn = {**HISTORY[1], "reasoning_content": "Hm."}
    assert "<|thought_start|>\nHm.\n" in ToolTemplate(ChatTemplate(templates.MINICPM)).render([QUESTION, turn], TOOLS)
    assert "<think>\nHm.\n</think>" in ToolTemplate(ChatTemplate(templates.QWEN3)).render([QUESTION, turn], TOOLS)
