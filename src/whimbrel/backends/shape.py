"""What an answer must look like, as people say it. ``backends.grammar`` compiles it for a tokenizer.

The classes check what can be checked without a tokenizer; the rest (a schema's keywords, a grammar's syntax) is checked
when they are compiled. All raise ``InvalidParameter``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.errors import InvalidParameter

SQL_DIALECTS = ("sqlite",)


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """JSON that is valid under a JSON Schema (2020-12, and what older drafts wrote differently)."""

    schema: Mapping[str, Any] | bool
    strict: bool = True
    """False leaves out constraints that can't be enforced, and logs their names; True refuses them"""

    def __post_init__(self) -> None:
        """Raises ``InvalidParameter`` for anything but a mapping or a truth value."""
        if not isinstance(self.schema, Mapping | bool):
            raise InvalidParameter(f"a JSON Schema is an object or true or false; this is a {_kind(self.schema)}")


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that a regular expression matches from beginning to end."""

    pattern: str

    def __post_init__(self) -> None:
        """Raises ``InvalidParameter`` for an empty pattern."""
        if not isinstance(self.pattern, str) or not self.pattern:
            raise InvalidParameter("the regular expression is empty; give one that matches the answers you want")


@dataclass(frozen=True, slots=True)
class Lark:
    """Text that a grammar in Lark's syntax derives from its rule ``start``."""

    grammar: str

    def __post_init__(self) -> None:
        """Raises ``InvalidParameter`` for an empty grammar."""
        if not isinstance(self.grammar, str) or not self.grammar.strip():
            raise InvalidParameter("the grammar is empty; give rules in Lark's syntax, one of them called start")


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these texts."""

    choices: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises ``InvalidParameter`` where there is nothing to choose from, or something that isn't text."""
        if isinstance(self.choices, str):
            raise InvalidParameter(f"choices={self.choices!r} is one text; give a tuple of texts")
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices:
            raise InvalidParameter("there are no choices; give at least one text")
        for choice in self.choices:
            if not isinstance(choice, str) or not choice:
                raise InvalidParameter(f"{choice!r} can't be a choice; each is a text of at least one character")


@dataclass(frozen=True, slots=True)
class Sql:
    """One SQL statement."""

    dialect: str = "sqlite"

    def __post_init__(self) -> None:
        """Raises ``InvalidParameter`` for a dialect that there is no grammar of."""
        if self.dialect not in SQL_DIALECTS:
            raise InvalidParameter(f"SQL dialect {self.dialect!r} is unknown; there is {', '.join(SQL_DIALECTS)}")


Shape = JsonObject | JsonSchema | Regex | Lark | OneOf | Sql


def _kind(value: object) -> str:
    return {"list": "list", "str": "text"}.get(type(value).__name__, type(value).__name__)
