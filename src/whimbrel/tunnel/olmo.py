"""The OLMo ladder (Bhagia et al. 2024; allenai/OLMo-ladder, Apache-2.0): its CSV files as points and as (N, D, loss).

Loss is the bits per byte of the right answer, the score its accuracy by length-normalised likelihood (5-shot,
``rc``); of a task with a test part, that part. Held out are the last checkpoint of the annealed 7B model and that of
the 13B model.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from whimbrel.errors import FormatError
from whimbrel.tunnel.ladder import LossPoint
from whimbrel.tunnel.score_points import Point

TASKS: Mapping[str, tuple[str, float]] = {
    "hellaswag": ("hellaswag_val", 0.25),
    "arc_easy": ("arc_easy_test", 0.25),
    "arc_challenge": ("arc_challenge_test", 0.25),
    "csqa": ("csqa_val", 0.2),
    "mmlu_stem": ("mmlu_stem_test", 0.25),
    "mmlu_humanities": ("mmlu_humanities_test", 0.25),
    "mmlu_social_sciences": ("mmlu_social_sciences_test", 0.25),
    "mmlu_other": ("mmlu_other_test", 0.25),
}
"""Our name -> the files' name, and the score of guessing."""

LARGER = {"7B": "peteish7_eval_anneal.csv", "13B": "peteish13_eval_final.csv"}
COMMON_TEXT = "eval/c4_en-validation/CrossEntropyLoss"
SIZES = {"190M": 190e6, "370M": 370e6, "760M": 760e6, "1B": 1.28e9, "3B": 3.19e9, "7B": 6.89e9, "13B": 13.2e9}
"""Parameters without embeddings (as the files name them; exact for the larger ones)."""
_RUN = re.compile(r"(\d+[MB])-(.+)\.csv")


def is_olmo(folder: str | Path) -> bool:
    """Whether a folder holds the ladder's files."""
    return Path(folder).is_dir() and any(_RUN.fullmatch(path.name) for path in Path(folder).glob("*xC*.csv"))


def olmo_points(folder: str | Path) -> list[Point]:
    """Every checkpoint of the ladder on each of ``TASKS``, and the larger models' last. Raises FormatError."""
    points = []
    for model, run, rows in _runs(Path(folder)):
        for number, row in enumerate(rows):
            for task, (name, _) in TASKS.items():
                loss = _number(row, f"eval/downstream_bpb/{name}_rc_5shot_bpb")
                score = _number(row, f"eval/downstream/{name}_rc_5shot_len_norm")
                if loss is not None and score is not None:
                    points.append(Point(task, model, run, number, loss, score))
    return points


def olmo_losses(folder: str | Path) -> list[LossPoint]:
    """The last checkpoint's loss on C4, per token, of each run. Raises FormatError."""
    points = []
    for model, run, rows in _runs(Path(folder)):
        loss, tokens = _number(rows[-1], COMMON_TEXT), _number(rows[-1], "throughput/total_tokens")
        if loss is not None and tokens is not None:
            points.append(LossPoint(model, SIZES[model], tokens, loss, run))
    return points


def _runs(folder: Path) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    files = [(match[1], match[2], path) for path in sorted(folder.glob("*xC*.csv")) if (match := _RUN.match(path.name))]
    if not files:
        raise FormatError(f"{folder}: no runs of the OLMo ladder there (190M-1xC.csv and so on)")
    files += [(model, "final", folder / name) for model, name in LARGER.items() if (folder / name).exists()]
    for model, run, path in files:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise FormatError(f"{path}: no rows; the file is truncated")
        yield model, run, rows if model not in LARGER else rows[-1:]


def _number(row: Mapping[str, str], column: str) -> float | None:
    try:
        value = float(row.get(column) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
