"""Where a text may be cut so that its parts tokenise as the whole does: what the cache of ``pieces`` rests on.

A pre-tokenizer is a list of regular expressions, and families of them share safe places. Each pattern below finds chunks that
end at such places. None is believed: ``chunks_of`` runs the tokenizer's own pre-tokenizer over thousands of short strings of
awkward characters, whole and in chunks, and takes the first pattern that never disagrees; a tokenizer for which none passes
is simply asked about whole texts.
"""

import functools
import random
import re
import sys
import unicodedata

import tokenizers

LETTERS = "a-zA-Z"
FINE = (
    # GPT-2
    r"'(?:[sdmt]|ll|ve|re)| ?[L]+| ?[0-9]+| ?[^\sL0-9]+|\s+(?!\S)|\s+",
    # GPT-2 after a split at digits (SmolLM): white space before a digit keeps its last space too
    r"'(?:[sdmt]|ll|ve|re)| ?[L]+|[0-9]| ?[^\sL0-9]+|\s+(?=[0-9])|\s+(?!\S)|\s+",
    # GPT-4 and Llama 3 (three digits), Qwen (one): new lines belong to the punctuation or the spaces before them
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\nL0-9]?[L]+|[0-9]{1,3}| ?[^\sL0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\nL0-9]?[L]+|[0-9]| ?[^\sL0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # DeepSeek: every new line and digit alone, white space before them whole
    r"[\r\n]|[^\S\r\n]?[L]+|[^\S\r\n]?[^\sL0-9]+|[0-9]|[^\S\r\n]+(?=[^\S\r\n][^\s0-9])|[^\S\r\n]+",
)
"""For plain texts, ASCII without control characters, pre-token by pre-token: fewer chunks to know, and so fewer misses, than with whole words"""
COARSE = (
    r" ?[^W]+|[W]+(?![^W])|[W]+",
    r"[W]+(?=[NUM])| ?[^WNUM][^W]*|[NUM][^W]*|[W]+(?![^W])|[W]+",
    r"(?:[H](?=[^W]))?[^W]+(?:[W]*[\r\n]+)?|[W]*[\r\n]+|[W]+(?![^W])|[W]+",
    # whatever begins a new piece at a lone space between two ASCII letters
    r"(?:(?!(?<=[a-z]) [a-z]).)+?(?=(?<=[a-z]) [a-z]|\Z)|.(?:(?!(?<=[a-z]) [a-z]).)*",
)
"""For other texts: the same families, cut at white space only"""
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Texts with one of these are not plain, though ASCII: tokenizers disagree about what they are"""
_HORIZONTAL = r"\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space but for new lines. Python's ``\\s`` has U+001C to U+001F besides, which tokenizers' has not."""
_ASCII = [
    "a",
    "be",
    "a b",
    "be of it",
    "'s",
    "1",
    "20",
    "_",
    ".",
    "(",
    "--",
    "\\",
    "\n",
    "\n\n",
    "\r",
    "\t",
    " ",
    " ",
    "  ",
    "<",
]
_OTHER = [
    "\x0b",
    "\x1c",
    "ж",
    "中",
    "文",
    "é",
    "ß",
    "²",
    "৪",
    "৴",
    "→",
    "。",
    "（",
    "😀",
    "\u3000",
    "\u00a0",
    "\u2028",
    "\u200b",
    "ー",
    "a",
    "a b",
    " ",
    "\n",
]
_TRIALS = 3000


def chunks_of(tokenizer: tokenizers.Tokenizer, *, plain: bool) -> re.Pattern[str] | None:
    """The first pattern whose chunks this tokenizer treats alone as it does in the text; None when there is none.

    ``plain``: for ASCII texts without ``CONTROLS``; else for all texts.
    """
    splitter = tokenizer.pre_tokenizer
    if splitter is None or tokenizer.normalizer is not None or b"ByteLevel" not in splitter.__getstate__():
        return None
    trials = _trials(plain)
    whole = [_split(splitter, text) for text in trials]
    for source in _sources(plain):
        pattern = re.compile(source, re.DOTALL | (re.ASCII if plain else 0))
        if all(_agrees(splitter, pattern, text, pieces) for text, pieces in zip(trials, whole, strict=True)):
            return pattern
    return None


def _sources(plain: bool) -> list[str]:
    space = _HORIZONTAL + r"\r\n"
    numbers = "0-9" if plain else _numbers()
    coarse = [source.replace("NUM", numbers).replace("W", space).replace("H", _HORIZONTAL) for source in COARSE]
    return [source.replace("L", LETTERS) for source in FINE] + coarse if plain else coarse


def _split(splitter: "tokenizers.pre_tokenizers.PreTokenizer", text: str) -> list[str]:
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


def _agrees(
    splitter: "tokenizers.pre_tokenizers.PreTokenizer", pattern: re.Pattern[str], text: str, whole: list[str]
) -> bool:
    chunks = pattern.findall(text)
    return "".join(chunks) == text and [piece for chunk in chunks for piece in _split(splitter, chunk)] == whole


def _trials(plain: bool) -> list[str]:
    """Short strings of characters at which pre-tokenizers decide; the same ones in every process."""
    draw = random.Random(12)
    alphabet = _ASCII if plain else _ASCII + _OTHER + _OTHER
    return ["".join(draw.choices(alphabet, k=draw.randint(1, 7))) for _ in range(_TRIALS)]


@functools.cache
def _numbers() -> str:
    """All code points of categories Nd, Nl and No, for a character class."""
    return "".join(
        re.escape(chr(code)) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "N"
    )
