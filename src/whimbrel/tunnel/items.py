"""ScalingBench's items from any set of questions with answers: the reasoning is taken from the set, or written.

A question is a JSON line with ``question`` and ``answer``, perhaps ``options`` and ``reasoning``; GSM8K's answers, whose
steps end in ``#### 18``, are taken apart. Where reasoning is lacking, a writer (any model that follows instructions) is
told the right answer and asked for the steps that lead there. Written items are kept at once: the same call goes on.
"""

import json
import os
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whimbrel.errors import DownloadError, FormatError, UsageError, WriteError
from whimbrel.eval.conditional import ConditionalItem, read_items

Writer = Callable[[str], str]
"""A request to the reasoning; both text"""

LONGEST = 4000
"""Characters of reasoning; what is longer went astray."""
REQUEST = (
    "{instruction}\n\nThe right answer is: {label}\n\n"
    "Write the reasoning that leads from the question to this answer, step by step, in at most ten short sentences. "
    "Do not mention that you were told the answer, and do not repeat the question."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One line of a set."""

    id: str
    instruction: str
    label: str
    reasoning: str = ""


def read_questions(path: str | Path) -> list[Question]:
    """A .jsonl of questions. Raises FormatError, naming the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: the questions can't be read: {error}") from None
    questions = []
    for number, line in enumerate(lines, 1):
        try:
            questions.append(_question(json.loads(line), f"{Path(path).stem}-{number}"))
        except (ValueError, KeyError, TypeError, IndexError):
            raise FormatError(
                f"{path}, line {number}: `question` and `answer` were expected (and perhaps `options`, `reasoning`)"
            ) from None
    return questions


def write_items(
    questions: Sequence[Question],
    path: str | Path,
    *,
    writer: Writer | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counter[str]:
    """Add the items that ``path`` lacks; returns counts: ``kept``, ``written``, ``here``, and reasons of rejection.

    Raises UsageError where reasoning is lacking and there is no writer, WriteError, and what the writer raises.
    """
    path, counts = Path(path), Counter[str]()
    _cut(path)
    here = {item.id for item in read_items(path)} if path.exists() else set()
    try:
        with path.open("a", encoding="utf-8") as file:
            for number, question in enumerate(questions, 1):
                if question.id in here:
                    counts["here"] += 1
                    continue
                reasoning, what = _reasoning(question, writer)
                counts[what] += 1
                if reasoning:
                    item = ConditionalItem(
                        id=question.id, instruction=question.instruction, reasoning=reasoning, label=question.label
                    )
                    file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
                    file.flush()
                progress(number, len(questions))
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror}; the items before are in it") from None
    return counts


class Endpoint:
    """A writer behind an OpenAI-compatible address, such as ``http://localhost:8000/v1``."""

    def __init__(self, url: str, model: str, *, key: str | None = None, seconds: float = 120.0) -> None:
        self.url, self.model, self.seconds = url.rstrip("/") + "/chat/completions", model, seconds
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def __call__(self, request: str) -> str:
        """One answer, at temperature 0. Raises DownloadError, with what the server said."""
        body = {"model": self.model, "messages": [{"role": "user", "content": request}], "temperature": 0}
        asked = urllib.request.Request(self.url, json.dumps(body).encode(), self._headers)
        try:
            with urllib.request.urlopen(asked, timeout=self.seconds) as answer:
                return str(json.load(answer)["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise DownloadError(f"{self.url} answered {error.code}: {said}") from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise DownloadError(f"{self.url}: no answer that could be read: {error}") from None


def _question(line: Mapping[str, Any], id: str) -> Question:
    answer, reasoning = line["answer"], str(line.get("reasoning", "")).strip()
    instruction = str(line["question"]).strip()
    if options := line.get("options"):
        letters = "ABCDEFGHIJ"
        instruction += "\n" + "\n".join(f"{letters[i]}. {text}" for i, text in enumerate(options))
        answer = letters[answer] if isinstance(answer, int) else answer
    steps, mark, final = str(answer).rpartition("\n#### ")
    if mark and not reasoning:
        reasoning, answer = steps.strip(), final
    return Question(
        id=str(line.get("id", id)),
        instruction=instruction,
        label=f"The answer is {str(answer).strip()}",
        reasoning=reasoning,
    )


def _reasoning(question: Question, writer: Writer | None) -> tuple[str, str]:
    """The reasoning and how it was come by, or nothing and why."""
    if question.reasoning:
        return question.reasoning, "kept"
    if writer is None:
        raise UsageError(f"question {question.id} has no reasoning; name a writer (--writer MODEL or --endpoint URL)")
    text = writer(REQUEST.format(instruction=question.instruction, label=question.label)).strip()
    if not text:
        return "", "empty"
    if len(text) > LONGEST:
        return "", "too long"
    return text, "written"


def _cut(path: Path) -> None:
    """Drop half a line that an interruption left."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
