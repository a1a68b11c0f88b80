"""Long synthetic retrieval: notes scattered over real text, and questions about them at the end.

    text <note> key value text text <note> key value ... text <ask> key value <ask> key value ...

The text is the source of Python's own standard library (always at hand, with names that come back after thousands of
tokens), cut into 510 byte-level pieces; whole modules are held out. Keys and values are single tokens, so that an answer
is right or wrong, and reading one note of many, exactly as far back as it stands, is all that a model has to do.
"""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

PIECES = 510
NOTE, ASK = PIECES, PIECES + 1
KEYS, VALUES = 256, 64
FIRST_KEY = PIECES + 2
FIRST_VALUE = FIRST_KEY + KEYS
VOCAB_SIZE = FIRST_VALUE + VALUES
HELD_OUT = 10
"""one module in this many is kept for measuring"""
TEXT_BYTES = 6_000_000

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sequences:
    """S sequences of T tokens, the next token of each, and which of those are asked for."""

    token_ids: Ids
    """[S, T]"""
    positions: Ids
    """[S, T] for the rotary embedding"""
    targets: Ids
    """[S, T] the next token"""
    is_text: npt.NDArray[np.bool_]
    """[S, T] the next token is text: language"""
    is_answer: npt.NDArray[np.bool_]
    """[S, T] the next token is the value that was asked for"""
    depths: npt.NDArray[np.float64]
    """[S, Q] where the note stands that each question asks for: 0 is the start, 1 the first question"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the sequences of a batch look like."""

    length: int
    """tokens"""
    sequences: int
    notes: tuple[int, int]
    """fewest and most per sequence"""
    questions: int
    reach: int = 0
    """positions that may be skipped (0: none): a sequence then spreads over up to ``length + reach`` of them"""


def standard_library(cache: Path) -> tuple[Ids, Ids]:
    """Token ids of the standard library's modules: (to learn from, held out). The pieces are learned, then kept in ``cache``."""
    stored = cache / "standard_library.npz"
    if stored.exists():
        arrays = np.load(stored)
        return arrays["learn"], arrays["held_out"]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learn, held_out = modules()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(learn[::4], trainer)
    ids = [
        np.concatenate([np.asarray(tokenizer.encode(text).ids, np.int32) for text in part])
        for part in (learn, held_out)
    ]
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(stored, learn=ids[0], held_out=ids[1])
    tokenizer.save(str(cache / "tokenizer.json"))
    return ids[0], ids[1]


def draw(text: Ids, shape: Shape, seed: tuple[int, ...]) -> Sequences:
    """A batch that follows from ``seed`` alone."""
    rng = np.random.default_rng(seed)
    rows = [_sequence(text, shape, rng) for _ in range(shape.sequences)]
    ids = np.stack([row for row, _ in rows])
    targets = np.concatenate([ids[:, 1:], np.full((len(ids), 1), ASK, np.int32)], 1)
    start = shape.length - 3 * shape.questions
    asked = np.zeros(ids.shape, bool)
    asked[:, start + 1 :: 3] = True  # at the key; the value comes next
    positions = np.stack([_positions(shape, rng) for _ in rows])
    return Sequences(ids, positions, targets, targets < PIECES, asked, np.stack([depths for _, depths in rows]))


def _sequence(text: Ids, shape: Shape, rng: np.random.Generator) -> tuple[Ids, npt.NDArray[np.float64]]:
    """Ids [T] and the depths of the notes that are asked for [Q]."""
    count = int(rng.integers(shape.notes[0], shape.notes[1] + 1))
    body = shape.length - 3 * shape.questions
    words = body - 3 * count
    first = int(rng.integers(0, len(text) - words))
    notes = np.full((count, 3), NOTE, np.int32)
    notes[:, 1] = FIRST_KEY + rng.choice(KEYS, count, replace=False)
    notes[:, 2] = FIRST_VALUE + rng.integers(0, VALUES, count)
    places = np.sort(rng.integers(0, words + 1, count))
    kept = np.insert(text[first : first + words], np.repeat(places, 3), notes.reshape(-1))
    chosen = rng.choice(count, shape.questions, replace=False)
    questions = notes[chosen].copy()
    questions[:, 0] = ASK
    starts = places[chosen] + 3 * chosen
    return np.concatenate([kept, questions.reshape(-1)]), starts / body


def _positions(shape: Shape, rng: np.random.Generator) -> Ids:
    """0, 1, 2 ...; with ``reach``, half of the sequences skip ahead at up to three places.

    So a short sequence shows distances of a long one. Source: PoSE (Zhu et al., 2023).
    """
    positions = np.arange(shape.length, dtype=np.int32)
    if shape.reach and rng.random() < 0.5:
        skipped = int(rng.integers(1, shape.reach + 1))
        places = rng.integers(1, shape.length, int(rng.integers(1, 4)))
        shares = rng.dirichlet(np.ones(len(places)))
        for place, share in zip(places, shares, strict=True):
            positions[place:] += int(skipped * share)
    return positions


def modules() -> tuple[list[str], list[str]]:
    """Source texts, in an order that follows from their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in root.rglob("*.py") if not {"site-packages", "test", "tests", "idlelib"} & set(path.parts)]
    digests = {path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest() for path in paths}
    learn: list[str] = []
    held_out: list[str] = []
    size = 0
    for path in sorted(paths, key=digests.__getitem__):
        text = path.read_text(encoding="utf-8", errors="replace")
        size += len(text)
        (held_out if digests[path][-1] % HELD_OUT == 0 else learn).append(text)
        if size > TEXT_BYTES:
            break
    return learn, held_out
