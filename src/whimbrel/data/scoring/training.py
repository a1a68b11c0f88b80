"""Train the quality classifier: labelled texts -> prepared lines -> fastText. The recipe is published, the sizes are options.

``PAPER`` is the recipe of the released classifier. On a few thousand documents it underfits, because words seen fewer than
five times are dropped and the learning rate ends before the rows have moved; ``SMALL`` is for those.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whimbrel.data.scoring.normalise import normalise
from whimbrel.data.scoring.pieces import Pieces
from whimbrel.errors import InvalidParameter, MissingExtra, WriteError


@dataclass(frozen=True, kw_only=True)
class FastTextConfig:
    """Arguments of fastText's ``supervised``, with the published values."""

    dim: int = 256
    lr: float = 0.1
    word_ngrams: int = 3
    min_count: int = 5
    epochs: int = 3
    bucket: int = 2_000_000
    threads: int = 0
    """0: all cores. More than one makes the model depend on their timing, as fastText's updates take no locks."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dim", "word_ngrams", "min_count", "epochs"):
            if getattr(self, name) < 1:
                raise InvalidParameter(f"{name}={getattr(self, name)} is impossible; want 1 or more")
        if self.lr <= 0 or self.bucket < 0 or self.threads < 0:
            raise InvalidParameter(f"lr={self.lr}, bucket={self.bucket}, threads={self.threads}: none may be negative")


PAPER = FastTextConfig()
SMALL = FastTextConfig(dim=64, lr=0.5, min_count=2, epochs=10, bucket=500_000)
PRESETS = {"paper": PAPER, "small": SMALL}


def train(
    positive: Iterable[str],
    negative: Iterable[str],
    tokenizer: str | Path,
    output: str | Path,
    config: FastTextConfig = PAPER,
) -> tuple[int, int]:
    """Train on texts of both kinds, write a fastText ``.bin``; returns how many texts of each kind there were.

    Raises MissingExtra without fastText, InvalidParameter when a kind has no text, WriteError when the disk refuses.
    """
    import_fasttext()
    pieces = Pieces.open(tokenizer)
    with tempfile.TemporaryDirectory(dir=Path(output).absolute().parent, prefix=".fasttext-") as folder:
        file = Path(folder) / "lines.txt"
        try:
            with file.open("w", encoding="utf-8", errors="surrogateescape") as lines:
                counts = (
                    _write(lines.write, "__label__pos", positive, pieces),
                    _write(lines.write, "__label__neg", negative, pieces),
                )
        except OSError as error:
            raise WriteError(f"can't write the training lines in {folder}: {error}") from error
        if not all(counts):
            raise InvalidParameter(
                f"a classifier needs texts of both kinds; found {counts[0]} positive, {counts[1]} negative"
            )
        train_lines(file, output, config)
    return counts


def train_lines(lines: str | Path, output: str | Path, config: FastTextConfig = PAPER) -> None:
    """Train on a file of prepared lines, each of which begins with its label. Raises MissingExtra, WriteError."""
    fasttext = import_fasttext()
    _shuffle(Path(lines), config.seed)
    model = fasttext.train_supervised(
        input=os.fspath(lines),
        dim=config.dim,
        lr=config.lr,
        wordNgrams=config.word_ngrams,
        minCount=config.min_count,
        epoch=config.epochs,
        bucket=config.bucket,
        thread=config.threads or os.cpu_count() or 1,
        seed=config.seed,
        verbose=0,
    )
    part = Path(f"{output}.part")
    try:
        model.save_model(os.fspath(part))
        part.replace(output)
    except (OSError, RuntimeError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise WriteError(f"can't write the classifier to {output}: {error}") from error


def import_fasttext() -> Any:
    """The official binding, whichever package brought it. Raises MissingExtra."""
    try:
        import fasttext
    except ImportError as error:
        raise MissingExtra(
            "fastText is not installed; `pip install whimbrel[data]` brings fasttext-community"
        ) from error
    return fasttext


def _write(write: Callable[[str], object], label: str, texts: Iterable[str], pieces: Pieces) -> int:
    count = 0
    for text in texts:
        line = pieces.line(normalise(text))
        if line:
            write(f"{label} {line}\n")
            count += 1
    return count


def _shuffle(path: Path, seed: int) -> None:
    """fastText reads its file in order with a falling learning rate: labels must come mixed."""
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(seed).shuffle(lines)
    path.write_bytes(b"".join(lines))
