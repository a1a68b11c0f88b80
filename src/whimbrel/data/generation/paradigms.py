"""What a writer is asked for, and which sections its answer must have. The requests are ours; the report names only the forms."""

import re
from dataclasses import dataclass

from whimbrel.errors import InvalidParameter


@dataclass(frozen=True)
class Paradigm:
    """``request`` has a place for the seed; ``sections`` are headings, each of which must stand on a line of its own, in order."""

    name: str
    request: str
    sections: tuple[str, ...]
    min_words: int
    max_words: int

    def ask(self, seed: str) -> str:
        """The request for one seed."""
        return self.request.replace("{seed}", seed)


_RULES = (
    "Write in your own words; do not copy sentences of the source. Use exactly the headings given, each on its own line "
    "after two number signs. Write nothing before the first heading.\n\nSource:\n{seed}\n"
)
TEXTBOOK = Paradigm(
    "textbook",
    "Write a section of a textbook about the subject of the source below. Under '## Key points' list what a reader has to "
    "know. Under '## Explanation' explain the points step by step in several rounds, each deeper than the one before, with "
    "the reason for every step. Under '## Summary' say it again in a paragraph. Under '## Exercises' set at least two "
    "exercises; begin each with 'Exercise:' and follow it with its worked solution, which begins with 'Answer:'. "
    + _RULES,
    ("Key points", "Explanation", "Summary", "Exercises"),
    150,
    3000,
)
FORUM = Paradigm(
    "forum",
    "Write a discussion of an expert forum about the subject of the source below. Under '## Question' one person asks what "
    "is hard to understand about it. Under '## Discussion' at least three people answer in turns, each turn beginning with a "
    "name and a colon; they give reasons, disagree on a point, and settle it with an argument. Under '## Conclusion' the first "
    "person says what was learnt. " + _RULES,
    ("Question", "Discussion", "Conclusion"),
    150,
    3000,
)
RESTRUCTURE = Paradigm(
    "restructure",
    "Rewrite the web page below as a clear short text: leave out menus, advertisements and repetitions, join what belongs "
    "together, and complete steps of reasoning that are missing. Put what it is about under '## Subject' and the text, in "
    "paragraphs, under '## Text'. " + _RULES,
    ("Subject", "Text"),
    60,
    1500,
)
PARADIGMS = {paradigm.name: paradigm for paradigm in (TEXTBOOK, FORUM, RESTRUCTURE)}
_HEADING = re.compile(r"^##\s+(.+?)\s*$", re.MULTILINE)


def named(name: str) -> Paradigm:
    """Raises InvalidParameter."""
    if name not in PARADIGMS:
        raise InvalidParameter(f"paradigm {name!r} is unknown; want one of {', '.join(PARADIGMS)}")
    return PARADIGMS[name]


def sections(text: str) -> dict[str, str]:
    """Heading -> what stands under it, in the order of the text."""
    parts = _HEADING.split(text)
    return {heading: body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}
