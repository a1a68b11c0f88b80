"""What can be said about an answer's shape without a tokenizer."""

from typing import Any

import pytest

from whimbrel.backends.shape import JsonObject, JsonSchema, Lark, OneOf, Regex, Sql
from whimbrel.errors import InvalidParameter


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JsonSchema([1]), "this is a list"),  # type: ignore[arg-type]
        (lambda: JsonSchema("{}"), "this is a text"),  # type: ignore[arg-type]
        (lambda: Regex(""), "is empty"),
        (lambda: Lark("  \n"), "start"),
        (lambda: OneOf(()), "no choices"),
        (lambda: OneOf("yes"), "one text"),  # type: ignore[arg-type]
        (lambda: OneOf(("a", "")), "at least one character"),
        (lambda: OneOf(("a", 3)), "3 can't be a choice"),  # type: ignore[arg-type]
        (lambda: Sql("oracle"), "there is sqlite"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        make()


def test_shapes_are_values() -> None:
    assert JsonObject() == JsonObject() and Regex("a") != Regex("b")
    assert (
        JsonSchema({"type": "object"}) == JsonSchema({"type": "object"}) != JsonSchema({"type": "object"}, strict=False)
    )
    assert OneOf(["a", "b"]) == OneOf(("a", "b"))  # type: ignore[arg-type]
    assert JsonSchema(True).strict
