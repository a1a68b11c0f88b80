"""RULER's eight needle tasks: one or more values under keys, in noise, in prose, or among needles that nobody asks for.

A needle is a key and a value in one sentence. What differs: the haystack (``noise``: one line again and again; ``prose``;
``needles``: other keys and values), the kind of key and value, how many keys are there, how many values a key has, and
how many keys are asked for. In prose needles stand between sentences, at places drawn from 40 even depths.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from whimbrel.eval import words
from whimbrel.eval.haystack import sentence_starts
from whimbrel.eval.ruler.materials import NOISE, Draft, Materials, Recipe, listed
from whimbrel.eval.task import seeded

ANSWER_TOKENS = 128

_PLACES = 40
"""Depths at which needles may stand in prose: 0, 1/39, ... 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """One of the eight tasks."""

    haystack: str
    """noise, prose or needles"""
    key: str = "word"
    value: str = "number"
    keys: int = 1
    values: int = 1
    """of each key"""
    queries: int = 1

    def recipe(self, materials: Materials, length: int, name: tuple[object, ...]) -> Recipe:
        """Units: noise lines, characters of prose, or needles."""
        needles = _Needles(self, seeded(*name, "needles"))
        if self.haystack == "prose":
            passage = materials.haystack.passage(seeded(*name, "haystack"), 8 * length)
            depths = seeded(*name, "depths").sample(range(_PLACES), len(needles.sentences))

            def prose(characters: int) -> Draft:
                repeats = materials.haystack.repeats(characters)
                context = _between_sentences(passage[:characters], needles.sentences, sorted(depths))
                return needles.draft(context, {"haystack_repeats": repeats})

            return Recipe(build=prose, guess=4 * length, most=len(passage))

        line: Callable[[random.Random], str] = (lambda _: NOISE) if self.haystack == "noise" else needles.distractor

        def lines(count: int) -> Draft:
            random = seeded(*name, "lines")
            every = [line(random) for _ in range(count)]
            return needles.draft("\n".join(_among(every, needles.sentences, seeded(*name, "places"))), {"lines": count})

        return Recipe(build=lines, guess=length // 30)


TASKS = {
    "niah_single_1": Retrieval(haystack="noise"),
    "niah_single_2": Retrieval(haystack="prose"),
    "niah_single_3": Retrieval(haystack="prose", value="UUID"),
    "niah_multikey_1": Retrieval(haystack="prose", keys=4),
    "niah_multikey_2": Retrieval(haystack="needles"),
    "niah_multikey_3": Retrieval(haystack="needles", key="UUID", value="UUID"),
    "niah_multivalue": Retrieval(haystack="prose", values=4),
    "niah_multiquery": Retrieval(haystack="prose", keys=4, queries=4),
}

_KINDS = {"word": words.key, "number": words.number, "UUID": words.identifier}


class _Needles:
    """Keys and values of one question."""

    def __init__(self, task: Retrieval, random: random.Random) -> None:
        self._task = task
        self._held: dict[str, list[str]] = {}
        while len(self._held) < task.keys:
            self._held[_KINDS[task.key](random)] = [_KINDS[task.value](random) for _ in range(task.values)]
        self._asked = random.sample(list(self._held), task.queries)
        self.sentences = [self._sentence(key, value) for key, values in self._held.items() for value in values]
        random.shuffle(self.sentences)

    def distractor(self, random: random.Random) -> str:
        """Another key with its value."""
        while (key := _KINDS[self._task.key](random)) in self._held:
            pass
        return self._sentence(key, _KINDS[self._task.value](random))

    def draft(self, context: str, metadata: dict[str, object]) -> Draft:
        """The prompt around a text that has the needles."""
        many = self._task.values * self._task.queries > 1
        kind, query = self._task.value, listed(self._asked)
        what = f"special magic {kind}{'s' if many else ''}"
        return Draft(
            text=(
                f"{'Some' if many else 'One'} {what} {'are' if many else 'is'} hidden in the text below."
                f" Remember {'them' if many else 'it'}; a question about {'them' if many else 'it'} follows.\n"
                f"{context}\nWhat {'are all the' if many else 'is the'} {what} for {query} that the text mentions?"
            ),
            beginning=f"The {what} for {query} that the text mentions {'are' if many else 'is'}",
            answers=tuple(value for key in self._asked for value in self._held[key]),
            metadata={"keys": self._asked, **metadata},
        )

    def _sentence(self, key: str, value: str) -> str:
        return f"The special magic {self._task.value} for {key} is {value}."


def _between_sentences(text: str, needles: list[str], places: list[int]) -> str:
    """Needles at sentence beginnings; ``places`` ascending, of ``_PLACES``; the last place is behind the text."""
    starts = sentence_starts(text)
    parts, done = [], 0
    for needle, at in zip(needles, places, strict=True):
        index = len(starts) * at // (_PLACES - 1)
        position = starts[index] if index < len(starts) else len(text)
        parts += [text[done:position].rstrip(), needle]
        done = position
    return " ".join(part for part in [*parts, text[done:]] if part)


def _among(lines: list[str], needles: list[str], random: random.Random) -> list[str]:
    """Lines with each needle at a random place of its own."""
    whole = list(lines)
    for needle in needles:
        whole.insert(random.randint(0, len(whole)), needle)
    return whole
