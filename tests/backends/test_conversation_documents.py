"""Conversations about documents that were read before: what stands where, and that nothing of them is read again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whimbrel.backends.document import Document
from whimbrel.backends.llm import LLM
from whimbrel.backends.shape import OneOf
from whimbrel.errors import InvalidParameter, PromptTooLong, UsageError
from whimbrel.models.chat import ChatTemplate
from whimbrel.ops import dispatch
from whimbrel.testing import templates, tiny

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))

OPTIONS: dict[str, Any] = {"context": 2048, "prefill_chunk": 128, "threads": 1}
QUESTION = {"role": "user", "content": "What does the whimbrel eat?"}
BRIEF = {"role": "system", "content": "Be brief."}
TOOL = {
    "type": "function",
    "function": {
        "name": "count_birds",
        "parameters": {"type": "object", "properties": {"where": {"enum": ["shore"]}}, "required": ["where"]},
    },
}
ANSWER: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(checkpoint, **OPTIONS) as model:
        yield model


@pytest.fixture(scope="module")
def document(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Document]:
    """About 500 tokens."""
    source = tmp_path_factory.mktemp("documents") / "birds.txt"
    source.write_text(" ".join(f"{i}: {tiny.TEXT}" for i in range(4)))
    with llm.open_document(llm.read_document(source).path) as opened:
        yield opened


def shown(document: Document, messages: list[Any], **more: Any) -> str:
    """The conversation, with the document's text in the place of its mark."""
    text = document.rendered(messages, **more)
    assert text.count(document.mark) == 1
    return text.replace(document.mark, document.parts[0].text)


def test_one_question_is_asked_as_without_a_conversation(llm: LLM, document: Document) -> None:
    assert llm.prompt_ids([QUESTION], document=document) == list(document.prompt(QUESTION["content"]).ids)
    answer = llm.chat([QUESTION], document=document, **ANSWER)
    assert answer.token_ids == document.ask(QUESTION["content"], **ANSWER).token_ids
    assert answer.usage.cached_tokens >= document.cached_tokens


def test_the_prompt_is_the_one_that_the_template_makes(llm: LLM, document: Document) -> None:
    messages = [QUESTION, {"role": "assistant", "content": "Crabs."}, {"role": "user", "content": "And?"}]
    said = f"{document.parts[0].text}\n\n---\n\n{QUESTION['content']}"
    expected = llm.render([{"role": "user", "content": said}, *messages[1:]])
    assert shown(document, messages) == expected
    assert llm.detokenize(llm.prompt_ids(messages, document=document)) == expected


def test_further_turns_keep_the_ids_that_were_written(llm: LLM, document: Document) -> None:
    first = llm.chat([QUESTION], document=document, **ANSWER)
    turns = [QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": "And in the winter?"}]
    second = llm.chat(turns, document=document, **ANSWER)
    known = (*first.prompt_token_ids, *first.token_ids)
    assert second.prompt_token_ids[: len(known)] == known
    assert second.usage.cached_tokens >= len(known) - 1
    other = llm.chat([QUESTION], **ANSWER)  # the same words without the document are another conversation
    assert other.usage.prompt_tokens < 100


def test_a_system_message_goes_behind_the_document(llm: LLM, document: Document) -> None:
    said = f"{document.parts[0].text}\n\n---\n\nBe brief.\n\n{QUESTION['content']}"
    assert shown(document, [BRIEF, QUESTION]) == llm.render([{"role": "user", "content": said}])
    answer = llm.chat([BRIEF, QUESTION], document=document, **ANSWER)
    assert answer.usage.cached_tokens >= document.cached_tokens


def test_the_system_message_that_was_read_stays_before_it(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "birds.txt").write_text(tiny.TEXT)
    with llm.open_document(llm.read_document(tmp_path / "birds.txt", system="Be brief.").path) as document:
        said = f"{tiny.TEXT}\n\n---\n\n{QUESTION['content']}"
        expected = llm.render([BRIEF, {"role": "user", "content": said}])
        assert shown(document, [QUESTION]) == shown(document, [BRIEF, QUESTION]) == expected
        another = shown(document, [{"role": "system", "content": "Be kind."}, QUESTION])
        assert another.startswith(expected[:40]) and "---\n\nBe kind.\n\nWhat does" in another


@pytest.mark.parametrize(
    "name", ["HERMES", "QWEN3", "LLAMA", "MISTRAL", "MINICPM", "SMOLLM", "DEEPSEEK", "XML", "NO_SYSTEM"]
)
def test_tools_are_described_behind_it_whatever_the_template(llm: LLM, tmp_path: Path, name: str) -> None:
    usual = llm.chat_template
    assert usual is not None
    (tmp_path / "birds.txt").write_text(tiny.TEXT)
    try:
        llm.chat_template = ChatTemplate(getattr(templates, name), {"bos_token": "<s>", "eos_token": "</s>"})
        with llm.open_document(llm.read_document(tmp_path / "birds.txt").path) as document:
            plain = document.rendered([QUESTION])
            text = document.rendered([QUESTION], tools=[TOOL])
    finally:
        llm.chat_template = usual
    before, _, after = text.partition(document.mark)
    assert before == plain.partition(document.mark)[0]
    assert "count_birds" in after and after.index("count_birds") < after.index(str(QUESTION["content"]))
    assert after.endswith(plain.partition(str(QUESTION["content"]))[2])


def test_calls_are_made_about_a_document(llm: LLM, document: Document) -> None:
    pytest.importorskip("llguidance")
    call = llm.chat([BRIEF, QUESTION], document=document, tools=[TOOL], tool_choice="required", max_tokens=120)
    assert [(made.name, made.arguments) for made in call.tool_calls] == [("count_birds", '{"where": "shore"}')]
    assert call.usage.cached_tokens >= document.cached_tokens
    made = {
        "id": call.tool_calls[0].id,
        "type": "function",
        "function": {"name": "count_birds", "arguments": call.tool_calls[0].arguments},
    }
    turns: list[Any] = [
        BRIEF,
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": made["id"], "content": "7"},
    ]
    shape = OneOf(("seven", "eight"))
    answer = llm.chat(turns, document=document, tools=[TOOL], tool_choice="none", shape=shape, max_tokens=20)
    assert answer.text in {"seven", "eight"}
    assert answer.usage.cached_tokens >= call.usage.prompt_tokens


def test_several_documents(llm: LLM, document: Document, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("The godwit is a wader too. " * 30)
    second = llm.read_document(tmp_path / "more.txt").path
    with llm.open_document(document.parts[0].path, second) as both:
        messages = [QUESTION, {"role": "assistant", "content": "Crabs."}, {"role": "user", "content": "Both?"}]
        answer = llm.chat(messages, document=both, block_mass=True, **ANSWER)
        assert answer.usage.cached_tokens >= both.cached_tokens
        assert both.prompt_of(answer).segments == both.prompt("Which?").segments
        read = {span.document for span in both.map_of(answer).spans}
        assert read == {"birds.txt", "more.txt"}
    assert document.key != both.key


def test_overflow_cuts_turns_and_never_the_document(llm: LLM, document: Document) -> None:
    turns: list[Any] = [BRIEF]
    for turn in range(40):
        turns += [{"role": "user", "content": f"turn {turn}: {tiny.TEXT}"}, {"role": "assistant", "content": "Yes."}]
    turns.append(QUESTION)
    with pytest.raises(PromptTooLong):
        llm.chat(turns, document=document, **ANSWER)
    answer = llm.chat(turns, document=document, overflow="truncate", **ANSWER)
    assert answer.usage.truncated_tokens > 0 and answer.usage.cached_tokens >= document.cached_tokens
    text = llm.detokenize(answer.prompt_token_ids)
    assert text.count(tiny.TEXT) > 4 and "\n\n---\n\nBe brief.\n\n" in text and "turn 0:" not in text


@pytest.mark.parametrize(
    ("messages", "more", "words"),
    [
        ([BRIEF], {}, "wants a question"),
        ([{"role": "assistant", "content": "Hello."}, QUESTION], {}, "begin the conversation with the user's message"),
        ("What?", {}, "belongs to a conversation"),
        ([QUESTION], {"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_mistakes(llm: LLM, document: Document, messages: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises((UsageError, InvalidParameter), match=words):
        llm.stream(messages, document=document, **more)


def test_variables_that_change_what_stands_before_it(llm: LLM, tmp_path: Path) -> None:
    usual = llm.chat_template
    assert usual is not None
    (tmp_path / "birds.txt").write_text(tiny.TEXT)
    try:
        llm.chat_template = ChatTemplate("{{ 'Hm. ' if thinking else '' }}" + usual.source + "{{ end }}")
        with llm.open_document(llm.read_document(tmp_path / "birds.txt").path) as document:
            assert document.rendered([QUESTION], {"end": "!"}).endswith("!")
            with pytest.raises(UsageError, match="thinking"):
                document.rendered([QUESTION], {"thinking": True})
    finally:
        llm.chat_template = usual


def test_a_closed_document_says_so(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "birds.txt").write_text(tiny.TEXT)
    document = llm.open_document(llm.read_document(tmp_path / "birds.txt").path)
    document.close()
    with pytest.raises(UsageError, match="has been closed"):
        llm.chat([QUESTION], document=document)
