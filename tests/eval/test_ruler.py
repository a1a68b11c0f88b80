"""RULER: each task fills its length, holds what it should, and can be answered with 100 and 0."""

import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel.errors import InvalidParameter
from whimbrel.eval import ruler, words
from whimbrel.eval.journal import Journal
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.record import run
from whimbrel.eval.ruler import Materials, read_materials
from whimbrel.eval.task import Question, any_of, every

THIRTEEN = [
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "documents_qa_1", "documents_qa_2"),
]
UNIT = {"documents_qa_1": 450, "documents_qa_2": 450, "cwe": 60, "niah_multikey_3": 130}
"""Tokens of one more unit at most, where that is more than 60."""


@pytest.fixture(scope="module")
def materials() -> Materials:
    return read_materials()


def question(prompter: Prompter, materials: Materials, task: str, length: int = 2048, **options: Any) -> Question:
    return next(ruler.items(prompter, materials, tasks=[task], lengths=[length], samples=1, **options)).make()


def text(prompter: Prompter, found: Question) -> str:
    return prompter._llm.detokenize(found.token_ids)


def test_there_are_thirteen(materials: Materials) -> None:
    assert ruler.task_names(None, materials) == THIRTEEN
    assert [{v: k for k, v in ruler.SUBSTITUTES.items()}.get(name, name) for name in THIRTEEN] == list(ruler.TASKS)[:13]


@pytest.mark.parametrize("length", [1024, 4096])
@pytest.mark.parametrize("task", THIRTEEN)
def test_a_task_fills_its_length_and_is_scored(
    prompter: Prompter,
    materials: Materials,
    llm_that: Callable[..., Any],
    knowing: Callable[..., Any],
    task: str,
    length: int,
) -> None:
    if task == "cwe" and length == 1024:
        length = 1536  # the small vocabulary of the tests makes two lists of 60 words longer than 1,024
    items = list(ruler.items(prompter, materials, tasks=[task], lengths=[length], samples=2))
    for item in items:
        used = len(item.make().token_ids) + item.max_tokens
        assert length - UNIT.get(task, 60) <= used <= length
    right = run(llm_that(knowing(items)), items, Journal())
    wrong = run(llm_that(lambda request: "I do not know."), items, Journal())
    assert [record.score for record in right] == [1, 1]
    assert [record.score for record in wrong] == [0, 0]
    assert items[0].make().token_ids != items[1].make().token_ids


@pytest.mark.parametrize(
    ("task", "needles", "answers"),
    [
        ("niah_single_1", 1, 1),
        ("niah_single_2", 1, 1),
        ("niah_single_3", 1, 1),
        ("niah_multikey_1", 4, 1),
        ("niah_multivalue", 4, 4),
        ("niah_multiquery", 4, 4),
    ],
)
def test_needles_of_retrieval(prompter: Prompter, materials: Materials, task: str, needles: int, answers: int) -> None:
    found = question(prompter, materials, task)
    context = text(prompter, found)
    assert len(re.findall(r"The special magic (?:number|UUID) for \S+ is \S+\.", context)) == needles
    assert len(found.answers) == answers == len(set(found.answers))
    assert all(context.count(answer) == 1 for answer in found.answers)


@pytest.mark.parametrize("task", ["niah_multikey_2", "niah_multikey_3"])
def test_a_haystack_of_needles(prompter: Prompter, materials: Materials, task: str) -> None:
    found = question(prompter, materials, task)
    lines = text(prompter, found).split("\n")[1:-2]
    assert len(lines) == found.metadata["lines"] + 1 > 15
    assert all(line.startswith("The special magic ") for line in lines)
    asked = [line for line in lines if f" {found.metadata['keys'][0]} " in line]
    assert len(asked) == 1 and asked[0].endswith(f"{found.answers[0]}.")


def test_variables_are_a_chain_in_order(prompter: Prompter, materials: Materials) -> None:
    found = question(prompter, materials, "vt")
    lines = text(prompter, found).split("\n")
    chain = [line for line in lines if re.match(r"VAR [A-Z]{5} ", line)]
    value = re.search(r"value (\d{5}) in the end\?$", text(prompter, found).rsplit("\n", 1)[0])
    assert value is not None
    sources = [value[1], *(f"VAR {name}" for name in found.answers[:-1])]
    assert chain == [f"VAR {name} = {source}" for name, source in zip(found.answers, sources, strict=True)]
    example = [line for line in lines if re.match(r"VAR [A-Z]{3} ", line)]
    assert len(example) == 5, "a solved example comes first"


@pytest.mark.parametrize(("length", "common", "other"), [(2048, 6, 1), (4096, 30, 3)])
def test_common_words_are_common(
    prompter: Prompter, materials: Materials, length: int, common: int, other: int
) -> None:
    found = question(prompter, materials, "cwe", length)
    parts = text(prompter, found).split("\n")
    context = next(part for part in reversed(parts) if part.startswith("1. "))
    counts = Counter(re.findall(r"\d+\. (\S+)", context))
    assert len(found.answers) == 10
    assert all(counts.pop(word) == common for word in found.answers)
    assert set(counts.values()) == {other}


def test_frequent_words_follow_the_zeta_distribution(prompter: Prompter, materials: Materials) -> None:
    found = question(prompter, materials, "fwe", 4096)
    counts = Counter(re.findall(r"\.\.\.|\b[a-z]{6}\b", text(prompter, found).split("no word. ")[1].split("\n")[0]))
    ranked = counts.most_common(5)
    assert ranked[0][0] == "..." and tuple(word for word, _ in ranked[1:4]) == found.answers
    assert ranked[1][1] / ranked[3][1] == pytest.approx(4, rel=0.15)  # ranks 2 and 4, squared
    assert ranked[4][1] < ranked[3][1]


@pytest.mark.parametrize("task", ["documents_qa_1", "documents_qa_2"])
def test_questions_have_their_documents(prompter: Prompter, materials: Materials, task: str) -> None:
    for seed in range(5):
        found = question(prompter, materials, task, 4096, seed=seed)
        context = text(prompter, found)
        title = re.search(r'"(.*)"', context.rsplit("Question: ", 1)[1])
        assert title is not None
        numbers = re.findall(r"^Document (\d+):$", context, re.MULTILINE)
        assert numbers == [str(number) for number in range(1, found.metadata["documents"] + 1)]
        assert context.count(f"Title: {title[1]}\n") == 1
        if task == "documents_qa_2":
            author = re.search(rf"Title: {re.escape(title[1])}\nAuthor: (.*)\n", context)
            assert author is not None
            by_them = re.findall(rf"Title: (.*)\nAuthor: .*{re.escape(author[1])}", context)
            assert sorted(by_them) == sorted([title[1], *found.answers])
        assert "substitute" in found.metadata["source"]


def test_the_same_question_at_every_length(prompter: Prompter, materials: Materials) -> None:
    for task in THIRTEEN:
        short, long = (question(prompter, materials, task, length) for length in (2048, 3072))
        assert short.answers == long.answers and len(short.token_ids) < len(long.token_ids)


def test_where_a_data_set_is_missing(materials: Materials) -> None:
    with pytest.raises(InvalidParameter, match=r"qa_1 needs its data set: give --squad dev-v2.0.json"):
        ruler.task_names(["vt", "qa_1"], materials)
    with pytest.raises(InvalidParameter, match="there is no task 'niah'; there are niah_single_1"):
        ruler.task_names(["niah"], materials)
    assert ruler.task_names(["fwe", "vt", "fwe"], materials) == ["fwe", "vt"]


def test_too_short(prompter: Prompter, materials: Materials) -> None:
    with pytest.raises(InvalidParameter, match="too short for this task"):
        question(prompter, materials, "cwe", 500)


def test_chat(chat_prompter: Prompter, materials: Materials) -> None:
    context = text(chat_prompter, question(chat_prompter, materials, "fwe", 1024))
    user, assistant = context.split("<|im_end|>")
    assert "<|im_start|>user\n" in user
    assert assistant.strip().startswith("<|im_start|>assistant\nAnswer: ") and assistant.endswith("often are")


def test_scorers() -> None:
    assert every("Red and BLUE", ["red", "blue"]) == 1
    assert every("red", ["red", "blue", "green", "grey"]) == 0.25
    assert any_of("a red one", ["blue", "Red"]) == 1
    assert any_of("green", ["blue", "red"]) == 0


def test_words() -> None:
    assert len(words.word_list()) > 1000
    many = words.different_words(random.Random(1), 3000)
    assert len(set(many)) == 3000
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", words.identifier(random.Random(3))
    )
