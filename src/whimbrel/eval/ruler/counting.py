"""RULER's two counting tasks: which words are the most frequent ones?

- cwe, common words: a numbered list of English words. Ten of them stand there 30 times each, all others 3 times (in
  prompts under 4,096 tokens 6 times and once); a short solved list comes first.
- fwe, frequent words: made-up words of six letters whose frequencies fall with the square of their rank (a zeta
  distribution, alpha 2). The most frequent one is ``...``, noise; the three after it are asked for.
"""

import math
import random
import string
from dataclasses import dataclass

from whimbrel.eval.ruler.materials import Draft, Materials, Recipe
from whimbrel.eval.task import seeded
from whimbrel.eval.words import different_words

CWE_ANSWER_TOKENS = 120
FWE_ANSWER_TOKENS = 50

_COMMON = 10
_LONG = 4096
"""Prompts from here on have the long lists."""
_ZETA_2 = math.pi**2 / 6


@dataclass(frozen=True, slots=True)
class _Repeats:
    """How often common and other words stand in a list, and in the example before it, which has ``example`` words."""

    common: int
    other: int
    example: int
    example_common: int
    example_other: int


def common_words(materials: Materials, length: int, name: tuple[object, ...]) -> Recipe:
    """Units: different words in the list."""
    repeats = _Repeats(30, 3, 40, 10, 3) if length >= _LONG else _Repeats(6, 1, 20, 3, 1)
    example, solution = _word_list(
        seeded(*name, "example"), repeats.example, repeats.example_common, repeats.example_other
    )
    solved = f"{_ask(example).text}\n{_ask(example).beginning} {_numbered(solution)}\n"

    def build(count: int) -> Draft:
        context, common = _word_list(seeded(*name, "words"), count, repeats.common, repeats.other)
        draft = _ask(context)
        return Draft(
            text=solved + draft.text, beginning=draft.beginning, answers=tuple(common), metadata={"words": count}
        )

    return Recipe(build=build, guess=max(_COMMON + 1, length // (6 * repeats.other)), least=_COMMON + 1)


def frequent_words(materials: Materials, length: int, name: tuple[object, ...]) -> Recipe:
    """Units: words drawn, of which the text has nearly as many."""
    vocabulary = ["...", *_coded_words(seeded(*name, "vocabulary"), max(5, (length - FWE_ANSWER_TOKENS) // 50))]

    def build(count: int) -> Draft:
        often = [int(count / (rank * rank * _ZETA_2)) for rank in range(1, len(vocabulary) + 1)]
        text = [word for word, times in zip(vocabulary, often, strict=True) for _ in range(times)]
        seeded(*name, "order").shuffle(text)
        return Draft(
            text=(
                "Count how often each coded word appears in the coded text below; the dots are no word."
                f" {' '.join(text)}\nQuestion: which three coded words appear most often? Give no explanation."
            ),
            beginning="Answer: in the coded text above the three words that appear most often are",
            answers=tuple(vocabulary[1:4]),
            metadata={"words": len(text)},
        )

    return Recipe(build=build, guess=length // 3, least=32)  # 32: the fourth rank is there once, the fifth never


def _word_list(random: random.Random, count: int, common: int, other: int) -> tuple[str, list[str]]:
    """A numbered list with ``count`` different words, and its common ones."""
    words = different_words(random, count)
    whole = words[:_COMMON] * common + words[_COMMON:] * other
    random.shuffle(whole)
    return _numbered(whole), words[:_COMMON]


def _ask(context: str) -> Draft:
    return Draft(
        text=(
            "The numbered list below has words that appear often and words that appear rarely."
            f" Remember those that appear most often.\n{context}\n"
            f"Question: which {_COMMON} words appear most often in this list?"
        ),
        beginning=f"Answer: the {_COMMON} words that appear most often in the list are:",
        answers=(),
    )


def _numbered(words: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


def _coded_words(random: random.Random, count: int) -> list[str]:
    """Different made-up words of six letters."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(random.choices(string.ascii_lowercase, k=6))] = None
    return list(words)
