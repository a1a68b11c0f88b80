"""Needle in a haystack: one fact in a long text, a grid of lengths and depths (after G. Kamradt, 2023).

A prompt has exactly the asked number of tokens of the model's own tokenizer: the haystack is cut to fit. At depth d the
needle stands where the sentence begins that is nearest to d of the haystack's characters; at depth 1 behind all of it.
An answer scores 1 if the needle's value is in it, else 0. The same sample has the same haystack and needle at every
depth of a length, so a column compares places and nothing else.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from whimbrel.errors import InvalidParameter
from whimbrel.eval import words
from whimbrel.eval.fit import exact_units
from whimbrel.eval.haystack import Haystack, sentence_starts
from whimbrel.eval.heatmap import shade
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.record import Record
from whimbrel.eval.report import cells
from whimbrel.eval.task import Item, Question, any_of, seeded

ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Needle:
    """A fact, the question that asks for it, and how the answer begins."""

    sentence: str
    question: str
    beginning: str
    value: str


def number_needle(rng: random.Random) -> Needle:
    """A number of seven digits under a key of two words."""
    key, value = words.key(rng), words.number(rng)
    return Needle(
        sentence=f"The special magic number for {key} is {value}.",
        question=f"What is the special magic number for {key} that the text mentions?",
        beginning=f"The special magic number for {key} that the text mentions is",
        value=value,
    )


def sentence_needle(rng: random.Random) -> Needle:
    """An advice in plain words that no text gives."""
    city, day, value = rng.choice(_CITIES), rng.choice(_DAYS), f"{rng.choice(_DOINGS)} {rng.choice(_PLACES)}"
    return Needle(
        sentence=f"The best thing to do in {city} on a {day} is to {value}.",
        question=f"What is, according to the text, the best thing to do in {city} on a {day}?",
        beginning=f"According to the text, the best thing to do in {city} on a {day} is to",
        value=value,
    )


NEEDLES: dict[str, Callable[[random.Random], Needle]] = {"number": number_needle, "sentence": sentence_needle}

_CITIES = [
    "Lisbon",
    "Bergen",
    "Nairobi",
    "Kyoto",
    "Valparaiso",
    "Tbilisi",
    "Galway",
    "Hanoi",
    "Quito",
    "Tartu",
    "Izmir",
]
_DAYS = ["rainy Monday", "warm evening", "quiet Sunday", "windy morning", "cold Friday", "long summer day"]
_DOINGS = [
    "eat almond bread",
    "play chess",
    "paint small boats",
    "sing old songs",
    "read a map aloud",
    "fly a red kite",
]
_PLACES = ["under the stone bridge", "behind the lighthouse", "in the tram depot", "on the library roof", "by the mill"]


def depths(count: int) -> list[float]:
    """Evenly from the beginning (0) to the end (1); one alone is in the middle. Raises ``InvalidParameter``."""
    if count < 1:
        raise InvalidParameter(f"depths={count}: at least one is needed")
    return [0.5] if count == 1 else [place / (count - 1) for place in range(count)]


def items(
    prompter: Prompter,
    haystack: Haystack,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    needle: str = "number",
    samples: int = 1,
    seed: int = 0,
) -> Iterator[Item]:
    """The grid, short lengths first; ``samples`` needles at each point of it.

    ``lengths``: tokens of the prompts. ``needle``: a key of ``NEEDLES``. Raises ``InvalidParameter``.
    """
    if needle not in NEEDLES:
        raise InvalidParameter(f"needle={needle!r} is unknown; there are {', '.join(NEEDLES)}")
    for length in sorted(lengths):
        for sample in range(samples):
            for depth in depths:
                yield Item(
                    id=f"niah/{length}/{depth:.4g}/{sample}",
                    task="niah",
                    length=length,
                    max_tokens=ANSWER_TOKENS,
                    score=any_of,
                    make=_recipe(prompter, haystack, NEEDLES[needle], length, depth, name=(seed, length, sample)),
                )


def depth_of(record: Record) -> float:
    """The row of a record in the grid."""
    return float(record.metadata["depth"])


def grid(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """The table of the grid, a shade beside each score: depths down, lengths to the right."""
    headings, rows = cells(records, depth_of, lambda depth: f"depth {depth:.0%}")
    shaded = [
        [row[0], *(f"{text} {shade(float(text))}" if text != "-" else text for text in row[1:])] for row in rows[:-3]
    ]
    return headings, [*shaded, *rows[-3:]]


def place(haystack: str, needle: str, depth: float) -> str:
    """The haystack with the needle before the sentence whose beginning is nearest to that depth."""
    if depth >= 1:
        return f"{haystack}\n{needle}"
    wanted = depth * len(haystack)
    position = min(sentence_starts(haystack), key=lambda start: abs(start - wanted))
    return f"{haystack[:position]}{needle} {haystack[position:]}"


def text_of(haystack: str, needle: Needle, depth: float) -> str:
    """The whole text before the answer."""
    return (
        "One piece of information is hidden in the text below. Remember it; a question about it follows.\n"
        f"{place(haystack, needle.sentence, depth)}\n{needle.question}"
    )


def _recipe(
    prompter: Prompter,
    haystack: Haystack,
    form: Callable[[random.Random], Needle],
    length: int,
    depth: float,
    name: tuple[int, int, int],
) -> Callable[[], Question]:
    def make() -> Question:
        needle = form(seeded(*name, "needle"))
        passage = haystack.passage(seeded(*name, "haystack"), 8 * length)

        def ids(characters: int) -> list[int]:
            return prompter.ids(text_of(passage[:characters], needle, depth), needle.beginning)

        characters = exact_units(lambda count: len(ids(count)), length, guess=4 * length, most=len(passage))
        return Question(
            token_ids=tuple(ids(characters)),
            answers=(needle.value,),
            metadata={"depth": depth, "needle": needle.sentence, "haystack_repeats": haystack.repeats(characters)},
        )

    return make
