"""Notice: one line about how a model was opened that its user should know."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """What was decided, and whether it can make answers worse."""

    text: str
    warning: bool = False
