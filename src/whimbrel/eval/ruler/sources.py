"""Questions over documents: SQuAD and HotpotQA from their published files, or made from the headers of local documents.

The last are a substitute and carry their own name (``documents_qa_1``, ``documents_qa_2``): one asks for the author or
the date of a document by its title (one document answers), the other for the title of another document by the same
author (two do). They are simpler than the real ones; a score of theirs is no score of SQuAD or HotpotQA.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whimbrel.errors import FormatError, InvalidParameter, UsageError
from whimbrel.eval.haystack import Document, Haystack

_EXCERPT = 900
"""Characters of a document that a question of ours shows: about as much as a paragraph of SQuAD."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question; documents by their numbers in the set."""

    question: str
    answers: tuple[str, ...]
    """any of them is right"""
    needed: tuple[int, ...]
    """documents that the answer needs"""
    near: tuple[int, ...] = ()
    """documents that stand beside them before others do"""
    excluded: tuple[int, ...] = ()
    """documents that would give another answer"""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions and the documents that they are about."""

    source: str
    documents: Sequence[str]
    questions: Sequence[Asked]


def read_squad(path: Path) -> QuestionSet:
    """SQuAD 2.0's ``dev-v2.0.json`` (or 1.1): answerable questions; other paragraphs of the article stand near.

    Raises ``UsageError`` where there is no file, ``FormatError`` where it is another one.
    """
    data = _read_json(path)
    try:
        articles = [[paragraph["context"] for paragraph in article["paragraphs"]] for article in data["data"]]
        number = _numbered(context for article in articles for context in article)
        questions = [
            Asked(
                asked["question"],
                tuple(dict.fromkeys(answer["text"] for answer in asked["answers"])),
                (number[paragraph["context"]],),
                tuple(number[context] for context in contexts if context != paragraph["context"]),
            )
            for article, contexts in zip(data["data"], articles, strict=True)
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
            if not asked.get("is_impossible", False) and asked["answers"]
        ]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path} is not in SQuAD's format ({error!r}); dev-v2.0.json was expected") from None
    return _checked(QuestionSet(f"SQuAD, {path.name}", list(number), questions), path)


def read_hotpotqa(path: Path) -> QuestionSet:
    """HotpotQA's ``hotpot_dev_distractor_v1.json``: each question with its ten documents.

    Raises ``UsageError`` where there is no file, ``FormatError`` where it is another one.
    """
    data = _read_json(path)
    try:
        texts = [[f"{title}\n{''.join(sentences)}" for title, sentences in entry["context"]] for entry in data]
        number = _numbered(text for entry in texts for text in entry)
        questions = [
            Asked(entry["question"], (entry["answer"],), tuple(dict.fromkeys(number[text] for text in own)))
            for entry, own in zip(data, texts, strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path} is not in HotpotQA's format ({error!r}); hotpot_dev_distractor_v1.json was expected"
        ) from None
    return _checked(QuestionSet(f"HotpotQA, {path.name}", list(number), questions), path)


def document_questions(haystack: Haystack) -> dict[str, QuestionSet]:
    """``documents_qa_1`` and ``documents_qa_2`` from documents with the headers Title, Author and Created.

    Raises ``InvalidParameter`` where fewer than ten documents have them, or no two of one author.
    """
    documents = [document for document in haystack.documents if {"Title", "Author", "Created"} <= set(document.headers)]
    if len(documents) < 10:
        raise InvalidParameter(
            f"{haystack.source} has {len(documents)} documents with the headers Title, Author and Created;"
            " questions need ten. Give --documents with such a file, or --squad and --hotpotqa"
        )
    texts = [_shown(document) for document in documents]
    by_author = defaultdict(list)
    for number, document in enumerate(documents):
        for author in _authors(document.headers):
            by_author[author].append(number)
    pairs = {author: numbers for author, numbers in by_author.items() if len(numbers) >= 2}
    if not pairs:
        raise InvalidParameter(f"{haystack.source} has no two documents of one author; documents_qa_2 needs them")
    source = f"headers of {haystack.source} (a substitute)"
    return {
        "documents_qa_1": QuestionSet(source, texts, _by_title(documents)),
        "documents_qa_2": QuestionSet(source, texts, _by_author(documents, pairs)),
    }


def _by_title(documents: Sequence[Document]) -> list[Asked]:
    """Who wrote it? When? Only where the title is unique."""
    titles = [document.headers["Title"] for document in documents]
    questions = []
    for number, document in enumerate(documents):
        if titles.count(titles[number]) > 1:
            continue
        title, author = titles[number], _authors(document.headers)[0]
        questions.append(
            Asked(f'Who is the first author of the document with the title "{title}"?', (author,), (number,))
        )
        date = document.headers["Created"]
        questions.append(Asked(f'When was the document with the title "{title}" created?', (date,), (number,)))
    return questions


def _by_author(documents: Sequence[Document], pairs: Mapping[str, list[int]]) -> list[Asked]:
    """From a title to its only author, and on to another document of theirs; their other documents stay out."""
    questions = []
    for author, numbers in pairs.items():
        for place, first in enumerate(numbers):
            second = numbers[(place + 1) % len(numbers)]
            title, answer = documents[first].headers["Title"], documents[second].headers["Title"]
            if _authors(documents[first].headers) != [author] or answer in title or title in answer:
                continue
            asked = f'What is the title of the other document by the author of "{title}"?'
            questions.append(Asked(asked, (answer,), (first, second), excluded=tuple(numbers)))
    return questions


def _authors(headers: Mapping[str, str]) -> list[str]:
    """Names without addresses."""
    text = re.sub(r"\s*<[^>]*>|\s*\([^)]*@[^)]*\)", "", headers["Author"])
    return [name.strip() for name in text.split(",") if name.strip()] or ["unknown"]


def _shown(document: Document) -> str:
    headers = document.headers
    text = document.text[:_EXCERPT].rsplit(" ", 1)[0] if len(document.text) > _EXCERPT else document.text
    return f"Title: {headers['Title']}\nAuthor: {', '.join(_authors(headers))}\nCreated: {headers['Created']}\n{text}"


def _numbered(texts: Any) -> dict[str, int]:
    """Each different text, in order, with its number."""
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is no JSON file: {error}") from error


def _checked(questions: QuestionSet, path: Path) -> QuestionSet:
    if not questions.questions:
        raise FormatError(f"{path} has no question with an answer")
    return questions
