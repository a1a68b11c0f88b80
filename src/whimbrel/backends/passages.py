"""What an answer read: the passages of its documents that its tokens attended to most.

Attention is counted per block of 64 tokens (``Completion.block_mass``). Left out are blocks that everyone attends to:
the first ones, where attention rests that has nowhere to go, and the latest: where attention is sparse, the whole window.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.attention.sparse import SparseConfig
from whimbrel.backends.results import Completion, Passage
from whimbrel.models.tokenizer import Tokenizer

LATEST = 1
"""Blocks before the prompt's last one that dense attention favours whatever they say: they are near."""

BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Span:
    """The characters ``text[start:end]`` of a document that a block of the prompt holds."""

    block: int
    document: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DocumentMap:
    """Where the documents of a prompt lie in it; turns attention to blocks into passages and a picture."""

    spans: tuple[Span, ...]
    """in the order of the prompt; of blocks that say something (see ``eligible``)"""
    documents: Mapping[str, str]
    """text by name"""

    @classmethod
    def of(
        cls, spans: Sequence[Span], documents: Mapping[str, str], prompt_tokens: int, sparse: SparseConfig | None
    ) -> "DocumentMap":
        """``spans`` of all blocks; ``sparse`` is how the model attends."""
        return cls(tuple(eligible(spans, prompt_tokens, sparse)), documents)

    def with_passages(self, completion: Completion, count: int) -> Completion:
        """The completion with its ``count`` most attended blocks as passages."""
        return replace(completion, passages=best_passages(completion.block_mass, self.spans, self.documents, count))

    def strip(self, completion: Completion, width: int) -> str:
        """See ``heat_strip``."""
        return heat_strip(completion.block_mass, self.spans, width)


def find_spans(tokenizer: Tokenizer, token_ids: Sequence[int], documents: Mapping[str, str]) -> list[Span]:
    """Where the blocks of a prompt lie in its documents, ``documents`` by name in the order of the prompt.

    A document that the tokenizer doesn't give back byte for byte has no spans.
    """
    pieces = [tokenizer.token_bytes(id) for id in token_ids]
    whole = b"".join(pieces)
    edges = [0]
    for piece in pieces:
        edges.append(edges[-1] + len(piece))
    edges = [*edges[::BLOCK_SIZE], *edges[-1:]] if len(pieces) % BLOCK_SIZE else edges[::BLOCK_SIZE]
    spans: list[Span] = []
    after = 0
    for name, text in documents.items():
        data = text.encode()
        start = whole.find(data, after)
        if start >= 0:
            spans += _spans_of(name, data, start, edges)
            after = start + len(data)
    return spans


def eligible(spans: Sequence[Span], prompt_tokens: int, sparse: SparseConfig | None) -> list[Span]:
    """Those that say something: without the first blocks and the latest ones, or the window where attention is sparse."""
    first = 1 if sparse is None else max(1, sparse.init_blocks)
    end = (prompt_tokens - 1) // BLOCK_SIZE - LATEST
    if sparse is not None and prompt_tokens >= sparse.dense_len and end >= sparse.num_blocks:
        end -= sparse.local_blocks - LATEST
    return [span for span in spans if first <= span.block < end]


def best_passages(
    shares: Sequence[float], spans: Sequence[Span], documents: Mapping[str, str], count: int
) -> tuple[Passage, ...]:
    """The ``count`` blocks with the largest shares, neighbours joined, the largest share first."""
    chosen = sorted(spans, key=lambda span: _share(shares, span), reverse=True)[:count]
    chosen = sorted((span for span in chosen if _share(shares, span) > 0), key=lambda span: (span.document, span.start))
    found = [
        Passage(
            run[0].document, run[0].start, run[-1].end, documents[run[0].document][run[0].start : run[-1].end], score
        )
        for run, score in ((run, sum(_share(shares, span) for span in run)) for run in _runs(chosen))
    ]
    return tuple(sorted(found, key=lambda passage: passage.score, reverse=True))


def heat_strip(shares: Sequence[float], spans: Sequence[Span], width: int) -> str:
    """One line for the documents from beginning to end: the higher the bar, the more attention. "" without spans."""
    if not spans:
        return ""
    width = min(width, len(spans))
    edges = [i * len(spans) // width for i in range(width + 1)]
    heats = [max(_share(shares, span) for span in spans[a:b]) for a, b in pairwise(edges)]
    top = max(heats)
    return "".join(BARS[round(heat / top * (len(BARS) - 1))] if top > 0 else BARS[0] for heat in heats)


def _share(shares: Sequence[float], span: Span) -> float:
    return shares[span.block] if span.block < len(shares) else 0.0


def _spans_of(name: str, data: bytes, start: int, edges: Sequence[int]) -> Iterator[Span]:
    """Spans of one document of UTF-8 ``data`` that begins at byte ``start`` of the prompt; blocks end at ``edges``."""
    characters = 0
    for block, (first, end) in enumerate(pairwise(edges)):
        inside = data[max(first - start, 0) : max(end - start, 0)]
        begun = sum(byte & 0xC0 != 0x80 for byte in inside)  # a character belongs to the block that it begins in
        if begun:
            yield Span(block, name, characters, characters + begun)
        characters += begun


def _runs(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans that continue each other, together."""
    runs: list[list[Span]] = []
    for span in spans:
        if runs and runs[-1][-1].document == span.document and runs[-1][-1].end == span.start:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs
