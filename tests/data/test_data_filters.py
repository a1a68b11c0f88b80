"""Each rule drops what it is for and names itself; kept text stays."""

import pickle

import numpy as np
import pytest

from whimbrel.data.document import Document, Drop, Filter, Keep
from whimbrel.data.duplicates import copies, signature
from whimbrel.data.filters.c4 import C4
from whimbrel.data.filters.decontaminate import Decontaminate
from whimbrel.data.filters.fineweb import FineWeb
from whimbrel.data.filters.gopher import GopherQuality, GopherRepetition
from whimbrel.errors import InvalidParameter

PROSE = "\n".join(
    f"The {noun} of the village have to walk with a lantern to the river, and that is why the road is {how}."
    for noun, how in (
        ("people", "lit"), ("children", "wide"), ("elders", "short"), ("shepherds", "old"), ("visitors", "new")
    )
)  # fmt: skip


def says(judge: Filter, text: str) -> str:
    verdict = judge(Document(text, "x"))
    return verdict.reason if isinstance(verdict, Drop) else "kept"


@pytest.mark.parametrize(
    ("judge", "text", "reason"),
    [
        (GopherQuality(), PROSE, "kept"),
        (GopherQuality(), "the short and the few", "gopher: too few words"),
        (GopherQuality(max_words=60), PROSE, "gopher: too many words"),
        (GopherQuality(), "a b " * 40, "gopher: mean length of words"),
        (GopherQuality(), PROSE + " #" * 30, "gopher: symbols"),
        (GopherQuality(), "\n".join("- " + line for line in PROSE.split("\n")), "gopher: bullets"),
        (GopherQuality(), PROSE.replace(".", "..."), "gopher: ellipses"),
        (GopherQuality(), PROSE + " 1234" * 60, "gopher: words without letters"),
        (GopherQuality(), "lorem ipsum dolor sit amet " * 12, "gopher: stop words"),
        (
            GopherRepetition(),
            "\n".join(str(i) + " unlike the others" * (i % 3) for i in range(9)),
            "gopher: top 2-gram",
        ),
        (GopherRepetition(), "\n\n".join(f"paragraph{i} says{i} its{i} own{i} thing{i}" for i in range(9)), "kept"),
        (GopherRepetition(), "one line\n" * 8, "gopher: repeated lines"),
        (GopherRepetition(), ("a paragraph here\n\n") * 8, "gopher: repeated paragraphs"),
        (C4(), PROSE, "kept"),
        (C4(), PROSE + "{", "c4: curly bracket"),
        (C4(), PROSE + " Lorem Ipsum", "c4: lorem ipsum"),
        (C4(), "Only one sentence is here.", "c4: too few sentences"),
        (FineWeb(), PROSE, "kept"),
        (FineWeb(), "home\nabout\ncontact\nlogin", "fineweb: lines without an end"),
        (FineWeb(), "yes.\nno.\nmaybe.\nso.", "fineweb: short lines"),
        (FineWeb(), (PROSE + "\n") * 2, "fineweb: repeated lines"),
    ],
)
def test_rules(judge: Filter, text: str, reason: str) -> None:
    assert says(judge, text) == reason


def test_c4_takes_out_lines_that_are_no_sentences() -> None:
    verdict = C4()(Document(PROSE + "\nHome | About\nWe use cookies on this site.\nEnable JavaScript to go on.", "x"))
    assert isinstance(verdict, Keep) and verdict.text == PROSE


def test_twelve_words_in_common_are_contamination() -> None:
    question = "How many apples does Ann have when she gives three of her seven apples away to Bob?"
    judge = Decontaminate([question, "too short"])
    assert says(judge, PROSE) == "kept"
    assert says(judge, PROSE + " " + question.upper().replace(" ", "  ")).startswith("contaminated")
    assert says(judge, " ".join(question.split()[:11])) == "kept"
    assert says(pickle.loads(pickle.dumps(judge)), question).startswith("contaminated")
    assert repr(judge) == repr(Decontaminate(["too short", question]))
    with pytest.raises(InvalidParameter):
        Decontaminate(["a b"])


def test_language() -> None:
    pytest.importorskip("py3langid", reason="needs the extra [data]")
    from whimbrel.data.filters.language import Language

    judge = Language(["en"])
    verdict = judge(Document(PROSE, "x"))
    assert isinstance(verdict, Keep) and verdict.notes is not None and verdict.notes["language"] == "en"
    assert (
        says(judge, "Der Hund läuft über die Straße und die Katze sitzt auf dem Dach des Hauses.")
        == "language: another"
    )
    assert repr(pickle.loads(pickle.dumps(judge))) == repr(judge)


def test_near_copies_fall_to_the_first_of_them() -> None:
    pytest.importorskip("rensa", reason="needs the extra [data]")
    long = " ".join(f"word{i}" for i in range(400))
    texts = [[long, PROSE], [PROSE + " ", "something else"], [long + " and a tail", "something  else"]]
    for method, want in (
        ("exact", [[0, 0], [1, 0], [0, 1]]),
        ("minhash", [[0, 0], [1, 0], [1, 1]]),
    ):
        found = copies([np.array([signature(text, method) for text in shard]) for shard in texts])
        assert [shard.astype(int).tolist() for shard in found] == want
    assert [len(shard) for shard in copies([np.zeros((0, 1), np.uint64)])] == [0]
