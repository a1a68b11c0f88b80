"""An answer's parts, in the order in which they come, however it is cut into pieces."""

from typing import Any

import pytest

from whimbrel.backends.executor import TokenLogprob
from whimbrel.backends.results import Piece, ToolCallPiece
from whimbrel.server.blocks import Blocks


def piece(text: str = "", tokens: int = 1, **fields: Any) -> Piece:
    return Piece(text=text, token_ids=(7,) * tokens, processed=3, prompt_tokens=3, **fields)


def call(index: int, id: str = "", name: str = "", arguments: str = "") -> tuple[ToolCallPiece, ...]:
    return (ToolCallPiece(index=index, id=id, name=name, arguments=arguments),)


PIECES = [
    piece(tokens=0),
    piece(reasoning="Let me "),
    piece(reasoning="see."),
    piece(tokens=2),
    piece("It is "),
    piece("fine."),
    piece(tool_calls=call(0, "a", "look", '{"x"')),
    piece(tool_calls=call(0, arguments=": 1}")),
    piece(tool_calls=(*call(1, "b", "look"), *call(1, arguments="{}"))),
]
KINDS = [
    ("reasoning", "", "", "Let me see."),
    ("text", "", "", "It is fine."),
    ("call", "a", "look", '{"x": 1}'),
    ("call", "b", "look", "{}"),
]


@pytest.mark.parametrize("at_once", [1, 2, 3, len(PIECES)])
def test_parts_are_the_same_however_pieces_come(at_once: int) -> None:
    blocks, changes = Blocks(), []
    for start in range(0, len(PIECES), at_once):
        changes += blocks.take(PIECES[start : start + at_once])
    changes += blocks.finish()
    assert [(block.kind, block.id, block.name, block.text) for block in blocks.all] == KINDS
    assert blocks.reasoning_tokens == 4
    for block in blocks.all:
        mine = [change for change in changes if change.block is block]
        assert (mine[0].what, mine[-1].what) == ("begin", "end")
        assert "".join(change.text for change in mine) == block.text
        assert {change.what for change in mine[1:-1]} <= {"more"}
    order = [change.block.index for change in changes]
    assert order == sorted(order)
    assert blocks.finish() == []


def test_additions_that_come_together_are_one_change() -> None:
    changes = Blocks().take([piece("a"), piece("b"), piece("c")])
    assert [(change.what, change.text) for change in changes] == [("begin", ""), ("more", "abc")]


def test_log_probabilities_stay_with_the_texts_tokens() -> None:
    thought, half, whole, end = (TokenLogprob(id, -1.0) for id in range(4))
    blocks = Blocks()
    blocks.take([piece(reasoning="hm", logprobs=(thought,)), piece(logprobs=(half,)), piece("é", logprobs=(whole,))])
    blocks.take([piece(logprobs=(end,))])
    blocks.finish()
    assert [block.logprobs for block in blocks.all] == [[], [half, whole, end]]


def test_an_answer_of_nothing_has_an_empty_text_where_one_is_wanted() -> None:
    assert Blocks().finish() == []
    blocks = Blocks()
    assert [change.what for change in blocks.finish(some_text=True)] == ["begin", "end"]
    assert [(block.kind, block.text) for block in blocks.all] == [("text", "")]
    assert blocks.reasoning_tokens == 0
