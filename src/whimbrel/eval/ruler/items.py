"""The table of RULER's tasks, and their items."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from whimbrel.errors import InvalidParameter
from whimbrel.eval.fit import most_units
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.record import Record
from whimbrel.eval.report import overall, report
from whimbrel.eval.ruler import counting, questions, retrieval, tracing
from whimbrel.eval.ruler.materials import Materials, Recipe
from whimbrel.eval.task import Item, Question, Scorer, any_of, every


@dataclass(frozen=True, slots=True)
class Task:
    """How one task is made and scored."""

    recipe: Callable[[Materials, int, tuple[object, ...]], Recipe]
    """from sources, length, and the name that seeds its randomness"""
    max_tokens: int
    score: Scorer = every


def _questions(name: str) -> Task:
    return Task(partial(questions.recipe, name), questions.ANSWER_TOKENS, any_of)


TASKS: dict[str, Task] = {
    **{name: Task(task.recipe, retrieval.ANSWER_TOKENS) for name, task in retrieval.TASKS.items()},
    "vt": Task(tracing.recipe, tracing.ANSWER_TOKENS),
    "cwe": Task(counting.common_words, counting.CWE_ANSWER_TOKENS),
    "fwe": Task(counting.frequent_words, counting.FWE_ANSWER_TOKENS),
    "qa_1": _questions("qa_1"),
    "qa_2": _questions("qa_2"),
    "documents_qa_1": _questions("documents_qa_1"),
    "documents_qa_2": _questions("documents_qa_2"),
}

SUBSTITUTES = {"qa_1": "documents_qa_1", "qa_2": "documents_qa_2"}
"""What stands for a task whose data set was not given."""

_HEADERS = (
    "ten documents with the headers Title, Author and Created; give others with --documents, or name other --tasks"
)
_NEEDS = {
    "qa_1": "its data set: give --squad dev-v2.0.json, or take documents_qa_1, made from local documents",
    "qa_2": "its data set: give --hotpotqa hotpot_dev_distractor_v1.json, or take documents_qa_2",
    "documents_qa_1": _HEADERS,
    "documents_qa_2": _HEADERS,
}


def task_names(asked: Sequence[str] | None, materials: Materials) -> list[str]:
    """The tasks to run: those asked for, or (None) the thirteen, with substitutes where a data set is missing.

    Raises ``InvalidParameter`` for an unknown name, or one whose data set is missing.
    """
    if asked is None:
        asked = [name for name in TASKS if name not in SUBSTITUTES.values()]
        asked = [
            SUBSTITUTES[name] if name in SUBSTITUTES and name not in materials.questions else name for name in asked
        ]
    for name in asked:
        if name not in TASKS:
            raise InvalidParameter(f"there is no task {name!r}; there are {', '.join(TASKS)}")
        if name in _NEEDS and name not in materials.questions:
            raise InvalidParameter(f"{name} needs {_NEEDS[name]}")
    return list(dict.fromkeys(asked))


def items(
    prompter: Prompter,
    materials: Materials,
    *,
    tasks: Sequence[str],
    lengths: Sequence[int],
    samples: int = 10,
    seed: int = 0,
) -> Iterator[Item]:
    """``samples`` items of each task (names of ``TASKS``) at each length (tokens of prompt and answer together)."""
    for length in sorted(lengths):
        for name in tasks:
            task = TASKS[name]
            for sample in range(samples):
                yield Item(
                    id=f"ruler/{name}/{length}/{sample}",
                    task=name,
                    length=length,
                    max_tokens=task.max_tokens,
                    score=task.score,
                    make=partial(_question, prompter, materials, task, length, (seed, name, sample)),
                )


def task_of(record: Record) -> str:
    """The row of a record in the table."""
    return record.task


def ruler_report(
    records: Sequence[Record],
    identity: Mapping[str, Any],
    substitutes: Mapping[str, str],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The report; ``substitutes`` (real task -> what stood in) are part of ``score``, and left out of the other one."""
    real = [record for record in records if record.task not in substitutes.values()]
    return {
        **report("ruler", records, identity=identity, row=task_of, row_name="task", warnings=warnings),
        "substitutes": dict(substitutes),
        "score_without_substitutes": overall(real, task_of),
    }


def _question(prompter: Prompter, materials: Materials, task: Task, length: int, name: tuple[object, ...]) -> Question:
    """The fullest prompt that leaves room for the answer."""
    recipe = task.recipe(materials, length, name)

    def ids(units: int) -> list[int]:
        draft = recipe.build(units)
        return prompter.ids(draft.text, draft.beginning)

    room = length - task.max_tokens
    units = most_units(lambda units: len(ids(units)), room, guess=recipe.guess, least=recipe.least, most=recipe.most)
    draft = recipe.build(units)
    return Question(token_ids=tuple(ids(units)), answers=draft.answers, metadata=draft.metadata)
