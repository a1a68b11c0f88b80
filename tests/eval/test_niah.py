"""Needle in a haystack: prompts of exact length, needles at their depth, scores that can be 0 and 100."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whimbrel.errors import InvalidParameter
from whimbrel.eval import niah
from whimbrel.eval.haystack import Haystack, read_haystack, sentence_starts
from whimbrel.eval.journal import Journal
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.record import run
from whimbrel.eval.report import overall

DEPTHS = [0.0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("needle", niah.NEEDLES)
@pytest.mark.parametrize("length", [256, 777, 2048])
def test_prompts_have_exactly_the_asked_length(
    prompter: Prompter, chat_prompter: Prompter, haystack: Haystack, needle: str, length: int
) -> None:
    for asking in (prompter, chat_prompter):
        for item in niah.items(asking, haystack, lengths=[length], depths=DEPTHS, needle=needle):
            question = item.make()
            assert len(question.token_ids) == length == item.length
            assert question.token_ids == item.make().token_ids, "made twice, the same"


def test_an_item_does_not_depend_on_the_ones_before_it(prompter: Prompter, haystack: Haystack) -> None:
    def one(**grid: Any) -> Any:
        items = {item.id: item for item in niah.items(prompter, haystack, **grid)}
        return items["niah/512/0.5/1"].make()

    assert one(lengths=[512], depths=[0.5], samples=2) == one(lengths=[300, 512, 900], depths=DEPTHS, samples=4)
    assert one(lengths=[512], depths=[0.5], samples=2) != one(lengths=[512], depths=[0.5], samples=2, seed=1)


def test_the_needle_stands_once_where_the_depth_says(prompter: Prompter, haystack: Haystack) -> None:
    places = []
    for item in niah.items(prompter, haystack, lengths=[3000], depths=DEPTHS):
        question = item.make()
        text = prompter._llm.detokenize(question.token_ids)
        needle = question.metadata["needle"]
        assert text.count(question.answers[0]) == text.count(needle) == 1
        start = text.index("\n") + 1
        places.append((text.index(needle) - start) / (text.rindex("\n", 0, text.rindex("\n")) - start - len(needle)))
    assert places == pytest.approx(DEPTHS, abs=0.03)


def test_a_column_has_one_haystack_and_one_needle(prompter: Prompter, haystack: Haystack) -> None:
    questions = [item.make() for item in niah.items(prompter, haystack, lengths=[1000], depths=DEPTHS)]
    assert len({question.metadata["needle"] for question in questions}) == 1
    assert len({question.token_ids for question in questions}) == len(DEPTHS)
    texts = [prompter._llm.detokenize(q.token_ids).replace(q.metadata["needle"], "") for q in questions]
    assert len({" ".join(text.split())[:2000] for text in texts}) == 1


def test_needles_differ_from_sample_to_sample(prompter: Prompter, haystack: Haystack) -> None:
    items = niah.items(prompter, haystack, lengths=[300, 400], depths=[0.5], samples=5)
    assert len({item.make().answers for item in items}) == 10


def test_scores(
    prompter: Prompter, haystack: Haystack, llm_that: Callable[..., Any], knowing: Callable[..., Any]
) -> None:
    items = list(niah.items(prompter, haystack, lengths=[300], depths=DEPTHS, needle="sentence"))
    right = run(llm_that(knowing(items)), items, Journal())
    wrong = run(llm_that(lambda request: "to eat soup"), items, Journal())
    assert [record.score for record in right] == [1.0] * 4
    assert [record.score for record in wrong] == [0.0] * 4
    half = [*right[:2], *wrong[2:]]
    assert overall(half, niah.depth_of) == 50
    headings, rows = niah.grid(half)
    assert headings == ["", "300"]
    assert rows[0] == ["depth 0%", "100 █"] and rows[3][1].strip() == "0" and rows[4] == ["mean", "50.0"]


def test_depths_are_even() -> None:
    assert niah.depths(5) == [0, 0.25, 0.5, 0.75, 1]
    assert niah.depths(1) == [0.5]
    with pytest.raises(InvalidParameter, match="depths=0"):
        niah.depths(0)


def test_impossible_requests(prompter: Prompter, haystack: Haystack) -> None:
    with pytest.raises(InvalidParameter, match="needle='gold' is unknown; there are number, sentence"):
        next(niah.items(prompter, haystack, lengths=[300], depths=[0.5], needle="gold"))
    with pytest.raises(InvalidParameter, match="a prompt of 40 tokens is too short"):
        next(niah.items(prompter, haystack, lengths=[40], depths=[0.5])).make()


def test_a_text_of_ones_own_is_repeated_in_another_order(prompter: Prompter, tmp_path: Path) -> None:
    path = tmp_path / "small.jsonl"
    path.write_text('{"text": "The first text is here."}\n\n{"id": 7, "text": "A second one\\n follows it."}\n')
    small = read_haystack(path)
    assert [document.text for document in small.documents] == ["The first text is here.", "A second one follows it."]
    question = next(niah.items(prompter, small, lengths=[400], depths=[0.5])).make()
    assert len(question.token_ids) == 400 and question.metadata["haystack_repeats"] > 5


def test_sentences() -> None:
    text = "One. Two, e.g. three. Four? (Five) 3.5 is no end."
    assert [text[start:].split()[0] for start in sentence_starts(text)] == ["One.", "Two,", "Four?", "(Five)"]
