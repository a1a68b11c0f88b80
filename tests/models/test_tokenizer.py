"""Tokenizers: round trips, special tokens, the SentencePiece library's ids, and llama.cpp's on the real vocabulary."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whimbrel.errors import FormatError, InvalidParameter, UnsupportedModel
from whimbrel.formats.gguf import GGUFFile
from whimbrel.models.exporting import export_gguf
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.testing import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tokenizer"), "llama")


@pytest.fixture(scope="module")
def metadata(folder: Path) -> dict[str, Any]:
    return GGUFFile(export_gguf(folder, folder / "m.gguf")).metadata


@pytest.fixture(scope="module")
def byte_level(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(metadata)


@given(st.text())
@settings(deadline=None)
def test_any_text_comes_back(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text)
    assert byte_level.decode(ids) == text
    assert b"".join(map(byte_level.token_bytes, ids)) == text.encode()


@given(st.text())
@settings(deadline=None)
def test_both_sources_of_a_tokenizer_agree(byte_level: Tokenizer, folder: Path, text: str) -> None:
    assert _cached(folder).encode(text) == byte_level.encode(text)


_tokenizers: dict[Path, Tokenizer] = {}


def _cached(folder: Path) -> Tokenizer:
    if folder not in _tokenizers:
        _tokenizers[folder] = Tokenizer.from_folder(folder)
    return _tokenizers[folder]


def test_special_tokens_are_text_unless_asked_for(byte_level: Tokenizer) -> None:
    text = "a<|im_start|>b"
    start = byte_level.token_id("<|im_start|>")
    assert start not in byte_level.encode(text)
    ids = byte_level.encode(text, parse_special=True)
    assert ids.count(start) == 1
    assert byte_level.decode(ids) == text
    assert byte_level.decode(ids, skip_special=True) == "ab"
    assert start in byte_level.special_ids
    assert byte_level.token_bytes(start) == b"<|im_start|>"


def test_end_tokens_are_found_by_name(byte_level: Tokenizer) -> None:
    assert byte_level.token_id("<|im_end|>") in byte_level.eos_token_ids


def test_bos_is_added_where_the_file_says_so(metadata: dict[str, Any]) -> None:
    with_bos = Tokenizer.from_gguf({**metadata, "tokenizer.ggml.add_bos_token": True})
    assert with_bos.encode("a") == [1, *with_bos.encode("a", add_special=False)]
    with_eos = Tokenizer.from_gguf({**metadata, "tokenizer.ggml.add_eos_token": True})
    assert with_eos.encode("a")[-1] == metadata["tokenizer.ggml.eos_token_id"]


def test_characters_may_span_tokens(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("🐦")
    assert len(ids) == 4
    assert byte_level.decode(ids[:2]) == "\ufffd"
    assert byte_level.decode(ids) == "🐦"


def test_lone_surrogates_are_refused_in_one_line(byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidParameter, match="not valid Unicode at character 2"):
        byte_level.encode("ab\udc80")


@pytest.mark.parametrize("bad", [-1, 320, 10**9])
def test_ids_outside_of_the_vocabulary(byte_level: Tokenizer, bad: int) -> None:
    with pytest.raises(InvalidParameter, match="outside"):
        byte_level.decode([bad])


@pytest.mark.parametrize("pre, text, pieces", [
    ("gpt-2", "It's 2024!!  ok\n\n x", ["It", "'s", " 2024", "!!", " ", " ok", "\n\n", " x"]),
    ("smollm", "It's 2024, 7", ["It", "'s", " ", "2", "0", "2", "4", ",", " ", "7"]),
    ("llama-bpe", "IT'S 20245!!\n\n  ok", ["IT", "'S", " ", "202", "45", "!!\n\n", " ", " ok"]),
    ("qwen2", "we'LL 123 é\t\tx", ["we", "'LL", " ", "1", "2", "3", " é", "\t", "\tx"]),
    ("default", "a1234b $x", ["a", "123", "4", "b", " ", "$", "x"]),
])  # fmt: skip
def test_pre_tokenizers_cut_as_llama_cpp_does(metadata: dict[str, Any], pre: str, text: str, pieces: list[str]) -> None:
    backend = Tokenizer.from_gguf({**metadata, "tokenizer.ggml.pre": pre})._backend
    assert backend.pre_tokenizer is not None
    cut = [text[start:stop] for _, (start, stop) in backend.pre_tokenizer.pre_tokenize_str(text)]
    assert cut == pieces


@pytest.mark.parametrize("changes, error, reason", [
    ({"tokens": None}, FormatError, r"tokenizer\.ggml\.tokens is missing"),
    ({"tokens": "abc"}, FormatError, "tokens is missing"),
    ({"merges": None}, FormatError, "merges is missing"),
    ({"merges": ["ab"]}, FormatError, "'ab' is not two tokens"),
    ({"merges": ["zzz qqq"]}, FormatError, "corrupt"),
    ({"token_type": np.ones(3, np.int32)}, FormatError, "3 token types"),
    ({"model": "bert"}, UnsupportedModel, r"'bert'.*gpt2 and llama"),
    ({"pre": "martian"}, UnsupportedModel, r"'martian'.*smollm"),
    ({"eos_token_id": 9999}, FormatError, "eos_token_id is 9999"),
    ({"bos_token_id": "one"}, FormatError, "bos_token_id"),
])  # fmt: skip
def test_damaged_vocabularies(
    metadata: dict[str, Any], changes: dict[str, Any], error: type[Exception], reason: str
) -> None:
    broken = {**metadata, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}}
    with pytest.raises(error, match=reason):
        Tokenizer.from_gguf({key: value for key, value in broken.items() if value is not None})


def test_a_token_that_appears_twice(metadata: dict[str, Any]) -> None:
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[100] = tokens[50]
    with pytest.raises(FormatError, match="twice"):
        Tokenizer.from_gguf({**metadata, "tokenizer.ggml.tokens": tokens})


# SentencePiece.


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama-2-like model: BPE, byte fallback, ▁ before the text; control tokens added by the folder."""
    trainer = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text((tiny.TEXT + "\n") * 4 + "naïve café, 12345 and 67890?\n", encoding="utf-8")
    trainer.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=360, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, user_defined_symbols=["<tool>"], minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<s>",
                "eos_token": {"content": "<|im_end|>"},
                "added_tokens_decoder": {
                    "360": {"content": "<|im_end|>", "special": True},
                    "361": {"content": "<|im_start|>", "special": True},
                },
            }
        )
    )
    return folder


TEXTS = [
    "", " ", "  two  spaces ", "The whimbrel reads the shore.", "naïve café 12345", "日本 🐦\nnew\tline", "the<tool>the",
    "aaaa the the\r\n", "It flies from the north to the south, and in the spring from the south to the north.",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_ids_equal_the_librarys(sentencepiece_folder: Path, text: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    ours = _cached(sentencepiece_folder)
    expected = theirs.encode(text)
    if "<tool>" in text:
        # Like those of llama.cpp, ours put a space before every piece of text between control tokens.
        assert ours.decode(ours.encode(text)) == "<s>the<tool> the"
        return
    assert ours.encode(text, add_special=False) == expected
    assert ours.encode(text) == [1, *expected]
    assert ours.decode(ours.encode(text, add_special=False)) == text


def test_sentencepiece_added_tokens(sentencepiece_folder: Path) -> None:
    ours = _cached(sentencepiece_folder)
    assert ours.vocab_size == 362
    assert ours.eos_token_ids == (360,)
    assert ours.encode("<|im_start|>", add_special=False, parse_special=True) == [361]
    assert ours.token_bytes(361) == b"<|im_start|>"
    newline = ours.encode("\n", add_special=False)[-1]
    assert ours.token_bytes(newline) == b"\n"
    assert ours.token_bytes(ours.encode(" the", add_special=False)[-1]).startswith(b" ")


def test_a_gguf_vocabulary_of_the_same_pieces_gives_the_same_ids(sentencepiece_folder: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    size = theirs.vocab_size()
    kinds = [
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in range(size)
    ]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": np.array([theirs.get_score(i) for i in range(size)], np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    ours = Tokenizer.from_gguf(metadata)
    for text in TEXTS:
        if "<tool>" not in text:
            assert ours.encode(text, add_special=False) == theirs.encode(text)
    assert ours.encode("a")[0] == 1
    with pytest.raises(FormatError, match="0 scores"):
        Tokenizer.from_gguf({key: value for key, value in metadata.items() if "scores" not in key})


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_sentencepiece_models(sentencepiece_folder: Path, data: st.DataObject) -> None:
    sound = (sentencepiece_folder / "tokenizer.model").read_bytes()
    broken = bytearray(sound)
    for at in data.draw(st.lists(st.integers(0, len(sound) - 1), max_size=4)):
        broken[at] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(sound)))
    target = sentencepiece_folder / "broken"
    target.mkdir(exist_ok=True)
    (target / "tokenizer.model").write_bytes(broken[:length])
    try:
        Tokenizer.from_folder(target).encode("the shore")
    except (FormatError, UnsupportedModel) as error:
        assert "\n" not in str(error)


# The real vocabulary.

SMOLLM2_IDS = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
    "\n": [198],
}


def test_real_vocabulary(smollm2: Path) -> None:
    """Ids recorded from llama.cpp; ``tests/peers`` compares whole documents."""
    tokenizer = Tokenizer.from_gguf(GGUFFile(smollm2).metadata)
    for text, ids in SMOLLM2_IDS.items():
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<|im_start|>user\nhi", parse_special=True) == [1, 4093, 198, 6004]
    assert tokenizer.eos_token_ids == (2, 0)
