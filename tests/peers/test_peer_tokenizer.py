"""Our tokenizer and llama.cpp's cut megabytes of text alike."""

import gzip
import json

from material import data, documents

from whimbrel.bench.side import Side

CHARACTERS = 4_000_000


def assert_same_tokens(ours: Side, peer: Side, texts: list[str]) -> int:
    """All texts give the same ids; returns the number of characters."""
    for text in texts:
        mine, theirs = ours.tokenize(text), peer.tokenize(text)
        if mine != theirs:
            place = next((i for i, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), -1)
            raise AssertionError(
                f"token {place}: {mine[place - 3 : place + 3]} here, {theirs[place - 3 : place + 3]} there"
            )
    return sum(map(len, texts))


def test_technical_documents(ours: Side, peer: Side) -> None:
    texts, total = [], 0
    for text in documents():
        texts.append(text)
        total += len(text)
        if total > CHARACTERS:
            break
    assert assert_same_tokens(ours, peer, texts) > CHARACTERS


def test_raw_web_pages_in_many_scripts(ours: Side, peer: Side) -> None:
    pages = sorted(data("web_pages/html").glob("*.html.gz"))[:30]
    texts = [gzip.decompress(page.read_bytes()).decode("utf-8", errors="replace").replace("\0", "") for page in pages]
    assert assert_same_tokens(ours, peer, texts) > 1_000_000


def test_prompts_of_every_kind(ours: Side, peer: Side) -> None:
    lines = data("spec_bench/question.jsonl").read_text(encoding="utf-8").splitlines()
    assert_same_tokens(ours, peer, [turn for line in lines for turn in json.loads(line)["turns"]])


def test_awkward_texts(ours: Side, peer: Side) -> None:
    assert_same_tokens(
        ours,
        peer,
        [
            "",
            " ",
            "   leading and trailing   ",
            "tabs\t\tand\r\nline ends\n\n\n",
            "12345 1,234.5 0x1F 3.14e-10",
            "don't we'll I'VE",
            "naïve café ÅÄÖ ß",
            "日本語のテキスト 中文 한국어",
            "עברית العربية हिन्दी ไทย",
            "🙂👩‍👩‍👧‍👦🇪🇺 e\u0301",
            "\u00a0\u2003\u200b\ufeff",
            "<|im_start|>user\nHello<|im_end|>",
        ],
    )
