"""Thinking: found in templates and prompts, parted from what is said, whatever the cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whimbrel.models.chat import ChatTemplate
from whimbrel.models.reasoning import KNOWN, Opening, ReasoningParser, Thinking, find_tags, thinking_after
from whimbrel.testing import templates, tiny

THINK, THOUGHT = KNOWN[:2]
FREE = Thinking((THINK,))
OPEN = Thinking((THINK,), Opening.OPEN, THINK)


def part(thinking: Thinking, text: str, cuts: Sequence[int] = ()) -> tuple[str, str]:
    parser = ReasoningParser(thinking)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    parts = [parser.feed(text[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    parts.append(parser.finish())
    return "".join(thought for thought, _ in parts), "".join(said for _, said in parts)


@pytest.mark.parametrize("thinking, text, thought, said", [
    (FREE, "<think>\nI see.\n</think>\n\nYes.", "I see.", "Yes."),
    (FREE, "\n<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    (FREE, "<think>\n\n</think>\n\nYes.", "", "Yes."),
    (FREE, " Yes. <think>", "", " Yes. <think>"),
    (FREE, "<thi", "", "<thi"),
    (FREE, "<think>a </thi b", "a </thi b", ""),
    (FREE, "I think</think>", "", "I think</think>"),
    (OPEN, "I see.\n</think>\n\nYes.", "I see.", "Yes."),
    (OPEN, "<think>\nI see.</think>Yes.", "I see.", "Yes."),
    (OPEN, "no end", "no end", ""),
    (OPEN, "cut </th", "cut </th", ""),
    (Thinking((THINK,), Opening.CLOSED), "Yes.", "", "Yes."),
    (Thinking((THINK, THOUGHT)), "<|thought_start|>a</think><|thought_end|>b", "a</think>", "b"),
    (Thinking(), "<think>a</think>b", "", "<think>a</think>b"),
])  # fmt: skip
def test_thoughts_and_words(thinking: Thinking, text: str, thought: str, said: str) -> None:
    assert part(thinking, text) == part(thinking, text, range(len(text))) == (thought, said)


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "</", " ", "\n", "word", "é"]), max_size=12)


@settings(max_examples=400, deadline=None)
@given(thinking=st.sampled_from([FREE, OPEN]), parts=PIECES, cuts=st.lists(st.integers(0, 60), max_size=20))
def test_every_cut_gives_the_same(thinking: Thinking, parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    thought, said = part(thinking, text, cuts)
    assert (thought, said) == part(thinking, text)
    assert _letters(thought + said) == _letters(text), "only tags and white space may go"


def _letters(text: str) -> str:
    return "".join(character for character in text if character in "wordé")


def test_tags_are_found_in_templates_and_prompts() -> None:
    assert find_tags(tiny.CHAT_TEMPLATE) == () and find_tags(templates.HERMES) == ()
    assert find_tags(templates.QWEN3) == (THINK,) and find_tags(templates.MINICPM) == (THOUGHT,)
    question = [{"role": "user", "content": "Why?"}]
    for source, variables, expected in (
        (templates.QWEN3, {}, FREE),
        (templates.QWEN3, {"enable_thinking": False}, Thinking((THINK,), Opening.CLOSED)),
        (templates.DEEPSEEK, {}, OPEN),
    ):
        prompt = ChatTemplate(source).render(question, **variables)
        assert thinking_after(prompt, find_tags(source)) == expected
