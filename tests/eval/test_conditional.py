"""Conditional loss counts the answer's tokens only, names what does not fit, and compares vocabularies by bytes."""

import json
import math
from pathlib import Path

import pytest

from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.errors import FormatError, UsageError
from whimbrel.eval.conditional import ConditionalItem, conditional_loss, read_items

ITEM = ConditionalItem(id="a", instruction="What is 2 + 2?", reasoning="2 and 2 are 4.", label="The answer is 4")


class Uneven(ScriptedExecutor):
    """Tokens of the instruction are impossible, those of the answer have probability 1/4."""

    def score(self, token_ids: list[int]) -> list[float]:  # type: ignore[override]
        start = len(ITEM.instruction) + 1
        return [math.log(0.25) if i + 1 >= start else -1000.0 for i in range(len(token_ids) - 1)]


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


def test_only_the_answer_counts() -> None:
    found = conditional_loss(Uneven([]), characters, [ITEM])
    assert found.per_token == pytest.approx(math.log(4)) and found.tokens == len(ITEM.answer)
    assert found.bits_per_byte == pytest.approx(2.0)


def test_pairs_of_characters_give_the_same_bits_per_byte_and_half_the_tokens() -> None:
    def pairs(text: str) -> list[int]:
        return [hash(text[i : i + 2]) for i in range(0, len(text), 2)]

    one, two = (conditional_loss(ScriptedExecutor([]), encode, [ITEM]) for encode in (characters, pairs))
    assert one.per_token == pytest.approx(two.per_token) and one.tokens > 1.8 * two.tokens
    assert one.bits_per_byte == pytest.approx(1.0) and two.bits_per_byte == pytest.approx(0.5, abs=0.05)


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    def greedy(text: str) -> list[int]:
        return characters(text.replace("?\n2", "Z"))

    assert conditional_loss(ScriptedExecutor([]), greedy, [ITEM]).tokens == len(ITEM.answer)


def test_items_longer_than_the_context_are_named() -> None:
    long = ConditionalItem(id="long", instruction="x" * 500, reasoning="y", label="z")
    found = conditional_loss(ScriptedExecutor([], max_context=100), characters, [ITEM, long])
    assert found.left_out == ("long",) and len(found.items) == 1
    with pytest.raises(UsageError, match="none of 1 items fits"):
        conditional_loss(ScriptedExecutor([], max_context=100), characters, [long])


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    line = json.dumps({"id": "a", "instruction": "i", "reasoning": "r", "label": "l"})
    path.write_text(f"{line}\n{{}}\n")
    with pytest.raises(FormatError, match="line 2: id, instruction"):
        read_items(path)
    path.write_text(f"{line}\n{line}\n")
    with pytest.raises(FormatError, match="item a is there twice"):
        read_items(path)
