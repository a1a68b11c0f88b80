"""Scores are the official program's: preprocessing, tokenization and the folded model."""

import functools
import pickle
import re
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers import pre_tokenizers as pre

from whimbrel.data.scoring.boundaries import chunks_of
from whimbrel.data.scoring.classifier import QualityClassifier
from whimbrel.data.scoring.fasttext_file import FastTextFile, word_hash
from whimbrel.data.scoring.normalise import line, normalise
from whimbrel.data.scoring.pieces import Pieces
from whimbrel.errors import FormatError, ModelNotFound, UnsupportedModel

AWKWARD = [
    "",
    "   ",
    "\n\n\n\nA\n\n\n\nB\r\n\tc  d   e",
    "Ünïcödé ÀÉÎ ﬁ ½ ² № Ⅷ \u200b\u2028",
    "日本語のテキスト。中文文本，没有空格" * 9,
    "don't we'll 's 20 3.14 1,000 x=1;y--  \x0b\x0c\x00 \x1c\x1d a",
    "<|endoftext|> in a text",
    "</s> ends __label__pos lines",
    "a" * 300 + " " + "-" * 99,
    "emoji 😀😀 and 👩‍👩‍👧 e\u0301\U000e0100",
    "\u2028 strip me \u2028",
]


def test_the_order_of_the_released_script() -> None:
    assert normalise("A\n\n\n\n\nB É ﬁ") == "a\n\nb e fi"
    assert line("a \n\n  \t b\r ") == "a \\n\\n \\t b\\r"


@given(st.text())
def test_normalising_drops_every_mark_and_nothing_else(text: str) -> None:
    slow = unicodedata.normalize("NFKD", re.sub(r"\n{3,}", "\n\n", text).lower())
    assert normalise(text) == "".join(c for c in slow if unicodedata.category(c) != "Mn")


def test_the_cache_gives_the_lines_of_the_released_steps(bpe: Path, clean: list[str], noisy: list[str]) -> None:
    pieces = Pieces.open(bpe)
    assert pieces.cached
    for text in [*AWKWARD, *clean[:200], *noisy[:40]]:
        text = normalise(text)
        assert pieces.line(text) == pieces.line_slowly(text)


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="ab1_.'\n\r\t \x0b\x1c\u00a0\u2028é中²<|endoftext>-", max_size=30))
def test_any_text_is_cut_where_its_tokenizer_cuts(bpe: Path, text: str) -> None:
    pieces = _pieces(bpe)
    assert pieces.line(text) == pieces.line_slowly(text)


@functools.cache
def _pieces(path: Path) -> Pieces:
    return Pieces.open(path)


GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = pre.ByteLevel(add_prefix_space=False, use_regex=False)
FAMILIES = {
    "digits": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
    "gpt4": pre.Sequence([pre.Split(Regex(GPT4), "isolated"), BYTES]),
    "deepseek": pre.Sequence(
        [
            pre.Split(Regex("[\r\n]"), "isolated"),
            pre.Split(Regex(r"\s?[A-Za-z]+"), "isolated"),
            pre.Split(Regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), "isolated"),
            pre.Split(Regex(r"\s+$"), "isolated"),
            pre.Split(Regex("[一-龥]+"), "isolated"),
            pre.Digits(individual_digits=True),
            BYTES,
        ]
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_pre_tokenizers_have_safe_boundaries(bpe: Path, name: str, clean: list[str]) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(bpe))
    tokenizer.pre_tokenizer = FAMILIES[name]
    pieces = Pieces(tokenizer)
    assert pieces.cached
    for text in [*AWKWARD, *clean[:60]]:
        assert pieces.line(normalise(text)) == pieces.line_slowly(normalise(text))


def test_a_tokenizer_without_safe_boundaries_is_asked_about_whole_texts(bpe: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(bpe))
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    assert chunks_of(tokenizer, plain=True) is None
    pieces = Pieces(tokenizer)
    assert pieces.line("one two\nthree") == pieces.line_slowly("one two\nthree")


def test_scores_are_those_of_the_official_program(model: Path, bpe: Path, clean: list[str], noisy: list[str]) -> None:
    import fasttext

    texts = [*AWKWARD, *clean[:150], *noisy[:150]]
    classifier = QualityClassifier(model, bpe)
    official = fasttext.load_model(str(model))
    want = []
    for text in texts:
        labels, values = official.predict([_pieces(bpe).line_slowly(normalise(text))], k=1)
        value = min(float(values[0][0]), 1.0)
        want.append(value if labels[0][0] == "__label__pos" else 1 - value)
    scores = classifier.score(texts)
    assert np.abs(scores - want).max() < 1e-5
    assert np.ptp(scores) > 0.5
    assert classifier.tokens == sum(len(_pieces(bpe).ids(normalise(text))) // 4 for text in texts)


def test_scores_do_not_depend_on_the_batch(model: Path, bpe: Path, clean: list[str]) -> None:
    classifier = QualityClassifier(model, bpe)
    together = classifier.score(clean[:20])
    assert np.array_equal(together, [classifier.score([text])[0] for text in clean[:20]])
    assert len(classifier.score([])) == 0


def test_a_classifier_travels_to_other_processes_without_its_model_file(model: Path, bpe: Path) -> None:
    classifier = QualityClassifier(model, bpe)
    sent = pickle.dumps(classifier)
    assert len(sent) < model.stat().st_size / 4
    assert np.array_equal(pickle.loads(sent).score(["some text"]), classifier.score(["some text"]))


def test_the_hash_takes_bytes_as_signed() -> None:
    assert word_hash("a") == 0xE40C292C  # FNV-1a's published value
    assert word_hash("ab") == _unsigned_fnv("ab")
    assert word_hash("é") != _unsigned_fnv("é")


def _unsigned_fnv(word: str) -> int:
    value = 2166136261
    for byte in word.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("keep", [0, 3, 60, 200, -10])
def test_a_model_that_is_cut_off_is_named(model: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.bin"
    path.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"cut\.bin"):
        FastTextFile.open(path)


def test_a_model_that_this_reader_leaves_to_fasttext_is_refused(model: Path, tmp_path: Path) -> None:
    data = bytearray(model.read_bytes())
    struct.pack_into("<i", data, 8 + 4 * 6, 1)  # hierarchical softmax
    (tmp_path / "hs.bin").write_bytes(data)
    with pytest.raises(UnsupportedModel, match="loss 1"):
        FastTextFile.open(tmp_path / "hs.bin")
    with pytest.raises(UnsupportedModel, match="__label__good"):
        QualityClassifier(model, _any_tokenizer(tmp_path), positive="good")
    with pytest.raises(ModelNotFound):
        FastTextFile.open(tmp_path / "none.bin")


def _any_tokenizer(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(path))
    return path
