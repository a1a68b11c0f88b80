"""The default model, where it is here: a chat that makes sense, and answers that don't depend on company."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from whimbrel.backends.llm import LLM
from whimbrel.ops import dispatch

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[LLM]:
    with LLM(smollm2, context=1024, max_sequences=8, cache_bytes=200 << 20) as llm:
        yield llm


def test_it_knows_the_capital_of_france(model: LLM) -> None:
    # Worded so that every choice leads by 0.7 or more: rounding, which differs from processor to processor, is 0.13.
    completion = model.chat("What is the capital city of France? Answer in one word.", max_tokens=32)
    assert "Paris" in completion.text and completion.finish_reason == "stop"
    assert "<|im_end|>" not in completion.text


def test_a_second_turn_reads_only_what_is_new(model: LLM) -> None:
    chat = model.session()
    first = chat.send("Name a bird of the shore.", max_tokens=40)
    second = chat.send("And one of the forest?", max_tokens=40)
    read_or_written = first.usage.prompt_tokens + first.usage.completion_tokens
    assert second.usage.cached_tokens >= read_or_written - 2
    assert second.prompt_token_ids[: len(first.prompt_token_ids)] == first.prompt_token_ids


def test_company_changes_nothing(model: LLM) -> None:
    questions = ["Count to ten.", "What is a whimbrel?", "Write a line about rain.", "Say something in French: é, 漢字"]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    options = {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": 3, "logprobs": 1}
    together = model.generate_many(prompts, **options)
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.logprobs for answer in together] == [answer.logprobs for answer in alone]


def test_what_was_written_scores_as_it_was_written(model: LLM) -> None:
    completion = model.generate("The whimbrel is", max_tokens=30, logprobs=0)
    score = model.score([*completion.prompt_token_ids, *completion.token_ids])
    assert list(score.logprobs[-len(completion.token_ids) :]) == [entry.logprob for entry in completion.logprobs]


def test_a_document_that_was_read_gives_the_answer_of_one_that_is_read(model: LLM, tmp_path: Path) -> None:
    said = "Arrivals at the lighthouse, in the order of the keeper's book. " + " ".join(
        f"On day {day} the {bird} came." for day, bird in enumerate(["gull", "tern", "plover", "heron"] * 6)
    )
    (tmp_path / "book.txt").write_text(f"{said} The keeper's name is Johanna Lind.")
    reading = model.read_document(tmp_path / "book.txt")
    with model.open_document(reading.path) as document:
        prompt = document.prompt("What is the keeper's name?")
        kept = document.ask("What is the keeper's name?", max_tokens=24, temperature=0)
        (text,) = document.texts().values()
        spans = document.spans(prompt)
    assert "Johanna" in kept.text and kept.usage.cached_tokens >= reading.blocks * 64 > 128
    fresh = model.generate(prompt.ids, max_tokens=24, temperature=0, prompt_logprobs=0)  # reads it all anew
    assert fresh.usage.cached_tokens == 0 and fresh.token_ids == kept.token_ids
    assert "".join(text[span.start : span.end] for span in spans) == text
