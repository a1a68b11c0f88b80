"""RULER's variable tracking: a value goes from variable to variable; which of them have it in the end?

One chain of five variables (four hops): the first gets a number, each other one the variable before it. The
assignments stand in this order among lines of noise. A solved example of about 450 tokens comes first, with
names of three letters instead of five.
"""

import random
import string

from whimbrel.eval.ruler.materials import NOISE, Draft, Materials, Recipe
from whimbrel.eval.task import seeded

ANSWER_TOKENS = 30
HOPS = 4

_EXAMPLE_LINES = 12


def recipe(materials: Materials, length: int, name: tuple[object, ...]) -> Recipe:
    """Units: lines of noise."""
    example_random = seeded(*name, "example")
    example_names, example_value = _variables(example_random, 3), _value(example_random)
    example = _question(_chain(example_names, example_value), example_value, _EXAMPLE_LINES, example_random)
    solved = f"{example.text}\n{example.beginning} {' '.join(example_names)}\n\n"

    def build(lines: int) -> Draft:
        random = seeded(*name, "chain")
        names, value = _variables(random, 5), _value(random)
        while value == example_value:
            value = _value(random)
        draft = _question(_chain(names, value), value, lines, random)
        return Draft(
            text=solved + draft.text, beginning=draft.beginning, answers=tuple(names), metadata={"lines": lines}
        )

    return Recipe(build=build, guess=length // 30)


def _question(chain: list[str], value: str, lines: int, random: random.Random) -> Draft:
    """The assignments in their order, among ``lines`` lines of noise."""
    places = sorted(random.randint(0, lines) for _ in chain)
    context = [NOISE] * lines
    for place, assignment in reversed(list(zip(places, chain, strict=True))):
        context.insert(place, assignment)
    return Draft(
        text=(
            "Follow the chain of variable assignments that is hidden in the text below.\n\n"
            + "\n".join(context)
            + f"\nQuestion: which variables have the value {value} in the end?"
        ),
        beginning=f"Answer: along the chain of assignments {len(chain)} variables have the value {value}, namely",
        answers=(),
    )


def _chain(names: list[str], value: str) -> list[str]:
    sources = [value, *(f"VAR {name}" for name in names[:-1])]
    return [f"VAR {name} = {source}" for name, source in zip(names, sources, strict=True)]


def _variables(random: random.Random, letters: int) -> list[str]:
    """Different names of capital letters, one more than hops."""
    names: dict[str, None] = {}
    while len(names) <= HOPS:
        names["".join(random.choices(string.ascii_uppercase, k=letters))] = None
    return list(names)


def _value(random: random.Random) -> str:
    return str(random.randint(10000, 99999))
