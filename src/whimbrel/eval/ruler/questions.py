"""RULER's question answering: a question whose documents stand among as many others as the prompt has room for."""

from whimbrel.eval.ruler.materials import Draft, Materials, Recipe
from whimbrel.eval.ruler.sources import Asked, QuestionSet
from whimbrel.eval.task import seeded

ANSWER_TOKENS = 32

_ORDER = "Answer the question by the documents alone, as briefly as you can and without any explanation."


def recipe(task: str, materials: Materials, length: int, name: tuple[object, ...]) -> Recipe:
    """Units: documents. ``name`` without the length: the same question is asked at every length."""
    found = materials.questions[task]
    asked = seeded(*name, "question").choice(found.questions)
    others = _others(found, asked, name)

    def build(count: int) -> Draft:
        chosen = _filled(list(asked.needed), others, count)
        seeded(*name, "order", count).shuffle(chosen)
        context = "\n\n".join(f"Document {place}:\n{found.documents[number]}" for place, number in enumerate(chosen, 1))
        return Draft(
            text=f"{_ORDER}\n\nThese are the documents.\n\n{context}\n\n{_ORDER}\n\nQuestion: {asked.question}",
            beginning="Answer:",
            answers=asked.answers,
            metadata={"source": found.source, "documents": count, "repeats": max(0, count - len(set(chosen)))},
        )

    return Recipe(build=build, guess=max(length // 220, len(asked.needed)), least=len(asked.needed))


def _others(found: QuestionSet, asked: Asked, name: tuple[object, ...]) -> list[int]:
    """Documents to fill up with, in the order in which they come: near ones first, both kinds in random order."""
    random = seeded(*name, "others")
    near = random.sample(asked.near, len(asked.near))
    taken = {*asked.needed, *asked.near, *asked.excluded}
    rest = [number for number in range(len(found.documents)) if number not in taken]
    random.shuffle(rest)
    return near + rest


def _filled(needed: list[int], others: list[int], count: int) -> list[int]:
    """``count`` documents; where there are no more, the others come again."""
    missing = count - len(needed)
    return needed + (others * (missing // max(1, len(others)) + 1))[:missing]
