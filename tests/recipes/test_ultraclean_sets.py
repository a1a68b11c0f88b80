"""The sets of the verification recipe, from invented text: nothing held out is trained on, and the candidates are alike in size."""

import json
import random
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS, HELD_OUT, NGRAM = 60, 20, 12


def passages(rng: random.Random, count: int) -> list[str]:
    return [" ".join(f"w{rng.randrange(10**6)}" for _ in range(WORDS)) for _ in range(count)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Every source; a whole page is an article between menus, a mail quotes documentation or is in another script."""
    rng = random.Random(1)
    counts = {"python-doc": 60, "postgresql-doc": 40, "sotu": 60, "web-body": 50}
    clean = [(source, passage) for source, count in counts.items() for passage in passages(rng, count)]
    pages = [f"Home Login\n{passage}\nShare this" for source, passage in clean if source == "web-body"]
    mails = (
        passages(rng, 100)
        + ["письмо " * WORDS] * 20
        + [f"> {passage}\nsee above" for source, passage in clean if source.endswith("-doc")]
    )
    noisy = [("web-page", page) for page in pages] + [("easy-ham-1", mail) for mail in mails]
    for name, found in (("clean", clean), ("noisy", noisy)):
        lines = [json.dumps({"source": source, "text": passage}) for source, passage in found]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def ngrams(texts: list[str]) -> set[tuple[str, ...]]:
    split = [text.split() for text in texts]
    return {tuple(words[at : at + NGRAM]) for words in split for at in range(len(words) - NGRAM + 1)}


def test_sets(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    from ultraclean_sets import divide

    sets = divide(text, held_out=HELD_OUT)
    assert {kind: len(found) for kind, found in sets.held_out.items()} == dict.fromkeys(sets.held_out, HELD_OUT)
    held = ngrams([passage for found in sets.held_out.values() for passage in found])
    trained = {"the default mix": sets.default, **sets.candidates}
    assert not [name for name, found in trained.items() if ngrams(found) & held], "held out, and trained on"
    assert sets.left_out["pages"] == HELD_OUT, "pages with the articles that are held out"
    assert sets.left_out["mails"] == HELD_OUT and not sets.left_out["speeches"]

    default = ngrams(sets.default)
    clean, noisy, mixed = (set(sets.candidates[name]) for name in ("clean", "noisy", "mixed"))
    assert not (clean | noisy | mixed) & set(sets.default), "candidates are of the other half"
    assert default and not clean & noisy and mixed <= clean | noisy
    assert sets.candidates["mixed"][::2] == sets.candidates["clean"][::2]
    assert sets.candidates["mixed"][1::2] == sets.candidates["noisy"][1::2]
    sizes = [sum(map(len, found)) for found in sets.candidates.values()]
    assert max(sizes) < 1.05 * min(sizes)
    assert all(passage.isascii() and passage.strip() for found in sets.candidates.values() for passage in found)
    assert sum("Login" in passage for passage in sets.default) and any(page.startswith(">") for page in sets.default)
    assert divide(text, held_out=HELD_OUT) == sets
