"""A small tokenizer and small classifiers for the tests of ``whimbrel.data``, made once from texts that ship with the repository."""

import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).parents[2]


def paragraphs() -> list[str]:
    """Clean prose: paragraphs of the repository's own documentation."""
    pages = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples" / "documents").glob("*.txt"))]
    parts = [part for page in pages for part in page.read_text(encoding="utf-8").split("\n\n")]
    texts = ["\n".join(part.split("\n")[at : at + 4]) for part in parts for at in range(0, part.count("\n") + 1, 4)]
    return [text for text in texts if len(text) > 120][:600]


def noise(text: str, seed: int) -> str:
    """A page of menus and offers in which words of ``text`` are strewn."""
    draw = random.Random(seed)
    words = text.split() + ["BUY", "now!!!", "click", "here", "login", "|", "$9.99", "FREE", "menu", "home"] * 8
    return "\n".join(" ".join(draw.choices(words, k=6)) for _ in range(12))


@pytest.fixture(scope="session")
def clean() -> list[str]:
    return paragraphs()


@pytest.fixture(scope="session")
def noisy(clean: list[str]) -> list[str]:
    return [noise(text, seed) for seed, text in enumerate(clean)]


@pytest.fixture(scope="session")
def bpe(tmp_path_factory: pytest.TempPathFactory, clean: list[str], noisy: list[str]) -> Path:
    """A byte-level BPE of 800 entries, with an added token."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    made.train_from_iterator([*clean[::4], *noisy[::8]], trainer)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, bpe: Path, clean: list[str], noisy: list[str]) -> Path:
    """A classifier that fastText trained: documentation against menus and offers."""
    pytest.importorskip("fasttext", reason="needs the extra [data]")
    from whimbrel.data.scoring.training import FastTextConfig, train

    path = tmp_path_factory.mktemp("model") / "quality.bin"
    config = FastTextConfig(dim=16, bucket=5000, epochs=8, lr=1.0, min_count=3, threads=1)
    train(clean[::2], noisy[::2], bpe, path, config)
    return path
