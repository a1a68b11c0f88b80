"""Files of questions: SQuAD and HotpotQA in their published formats, headers of documents, and what is neither."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from whimbrel.errors import FormatError, InvalidParameter, UsageError
from whimbrel.eval import ruler
from whimbrel.eval.haystack import read_haystack, read_text
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.ruler.sources import document_questions, read_hotpotqa, read_squad


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def squad_file(folder: Path) -> Path:
    """Two articles; one question of three can't be answered."""

    def paragraph(text: str, *questions: dict[str, Any]) -> dict[str, Any]:
        return {"context": text, "qas": list(questions)}

    asked = {"question": "What is blue?", "answers": [{"text": "the sky"}, {"text": "the sky"}, {"text": "sky"}]}
    return written(
        folder / "dev-v2.0.json",
        {
            "version": "v2.0",
            "data": [
                {
                    "title": "Colours",
                    "paragraphs": [
                        paragraph("The sky is blue.", {**asked, "is_impossible": False}),
                        paragraph("Grass is green.", {"question": "Why?", "answers": [], "is_impossible": True}),
                    ],
                },
                {"title": "Numbers", "paragraphs": [paragraph("Two is even."), paragraph("Three is odd.")] * 30},
            ],
        },
    )


def hotpotqa_file(folder: Path) -> Path:
    entries = [
        {
            "question": f"Who of the two is {number}?",
            "answer": f"Person {number}",
            "context": [[f"Title {number} {place}", ["One.", " Two."]] for place in range(10)],
        }
        for number in range(6)
    ]
    return written(folder / "hotpot.json", entries)


def test_squad(tmp_path: Path, prompter: Prompter) -> None:
    found = read_squad(squad_file(tmp_path))
    assert found.documents == ["The sky is blue.", "Grass is green.", "Two is even.", "Three is odd."]
    (one,) = found.questions
    assert (one.question, one.answers, one.needed, one.near) == ("What is blue?", ("the sky", "sky"), (0,), (1,))
    materials = ruler.read_materials(squad=squad_file(tmp_path))
    assert ruler.task_names(None, materials)[-2:] == ["qa_1", "documents_qa_2"]
    item = next(ruler.items(prompter, materials, tasks=["qa_1"], lengths=[1024], samples=1))
    question = item.make()
    assert question.metadata["source"] == "SQuAD, dev-v2.0.json" and question.metadata["repeats"] > 0
    context = prompter._llm.detokenize(question.token_ids)
    assert context.count("The sky is blue.") == 1
    assert (item.score("It is the SKY.", question.answers), item.score("grass", question.answers)) == (1, 0)


def test_hotpotqa(tmp_path: Path, prompter: Prompter) -> None:
    found = read_hotpotqa(hotpotqa_file(tmp_path))
    assert len(found.documents) == 60 and found.documents[11] == "Title 1 1\nOne. Two."
    assert found.questions[1].needed == tuple(range(10, 20))
    materials = ruler.read_materials(hotpotqa=hotpotqa_file(tmp_path))
    question = next(ruler.items(prompter, materials, tasks=["qa_2"], lengths=[1024], samples=1)).make()
    number = question.answers[0].removeprefix("Person ")
    context = prompter._llm.detokenize(question.token_ids)
    assert all(f"Title {number} {place}\n" in context for place in range(10))


@pytest.mark.parametrize("read", [read_squad, read_hotpotqa])
def test_other_files_are_refused(tmp_path: Path, read: Any) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        read(tmp_path / "absent.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"data": [')
    with pytest.raises(FormatError, match="is no JSON file"):
        read(broken)
    for value in ({"a": 1}, [{"question": "x"}], {"data": [{"paragraphs": 3}]}):
        with pytest.raises(FormatError, match="format"):
            read(written(tmp_path / "other.json", value))
    with pytest.raises(FormatError, match="no question with an answer"):
        read(written(tmp_path / "none.json", {"data": []} if read is read_squad else []))


def test_questions_of_documents_need_headers(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("Just a text. " * 50)
    with pytest.raises(InvalidParameter, match=r"0 documents with the headers .* questions need ten"):
        document_questions(read_haystack(plain))
    materials = ruler.read_materials(documents=plain)
    assert ruler.task_names(["niah_single_2"], materials)
    with pytest.raises(InvalidParameter, match="documents_qa_1 needs ten documents"):
        ruler.task_names(None, materials)


def test_headers_and_addresses(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl.gz"
    lines = [
        {"title": f"Note {n}", "text": f"PEP: {n}\nAuthor: Ann <a@b.c>,\n Bob {n}\nCreated: {n} May\n\nText {n}."}
        for n in range(12)
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    haystack = read_haystack(path)
    assert haystack.documents[3].headers["Author"] == "Ann <a@b.c>, Bob 3"
    assert haystack.documents[3].text == "Text 3." and read_text(path).startswith("Text 0.\n\nText 1.")
    found = document_questions(haystack)
    assert "<a@b.c>" not in found["documents_qa_1"].documents[0]
    assert found["documents_qa_1"].questions[0].answers == ("Ann",)
    assert not found["documents_qa_2"].questions, "a document of two authors does not say whose other one is meant"


@pytest.mark.parametrize("content", ["[1, 2]\n", '{"no": "text"}\n', "not json\n"])
def test_lines_that_are_no_documents(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(FormatError, match="line 1"):
        read_haystack(path)


def test_files_without_text(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(FormatError, match="has no text"):
        read_haystack(empty)
    with pytest.raises(UsageError, match="there is no file"):
        read_haystack(tmp_path / "absent.jsonl")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"text": "x"}')[:-6])
    with pytest.raises(FormatError, match="can't be read"):
        read_haystack(cut)
