"""How good a classifier is on texts that it was not trained on: F1, ROC and calibration, as numbers and as a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whimbrel.errors import InvalidParameter, MissingExtra

BINS = 10


@dataclass(frozen=True)
class HeldOut:
    """Numbers at one threshold, and the curves behind them. ``calibration``: (mean score, share of positives, texts) per bin."""

    positives: int
    negatives: int
    threshold: float
    precision: float
    recall: float
    f1: float
    auc: float
    calibration_error: float
    """mean distance of score and share of positives over the bins, weighted by their texts"""
    roc: tuple[tuple[float, float], ...]
    """(false positive rate, true positive rate)"""
    calibration: tuple[tuple[float, float, int], ...]


def measure(positive: NDArray[np.float64], negative: NDArray[np.float64], threshold: float = 0.5) -> HeldOut:
    """Compare scores with labels; texts without a score count as negative. Raises InvalidParameter when a side is empty."""
    if not len(positive) or not len(negative):
        raise InvalidParameter(f"held-out texts of both kinds are needed; found {len(positive)} and {len(negative)}")
    positive, negative = np.nan_to_num(positive), np.nan_to_num(negative)
    hits, false = int((positive >= threshold).sum()), int((negative >= threshold).sum())
    precision, recall = hits / max(hits + false, 1), hits / len(positive)
    scores = np.concatenate([positive, negative])
    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    roc = _roc(scores, labels)
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    calibration = [
        (float(scores[bins == b].mean()), float(labels[bins == b].mean()), int((bins == b).sum()))
        for b in range(BINS)
        if (bins == b).any()
    ]
    return HeldOut(
        positives=len(positive),
        negatives=len(negative),
        threshold=threshold,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        auc=float(np.trapezoid([y for _, y in roc], [x for x, _ in roc])),
        calibration_error=sum(abs(score - share) * count for score, share, count in calibration) / len(scores),
        roc=tuple(roc),
        calibration=tuple(calibration),
    )


def _roc(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The curve's corners; texts of one score move together."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(labels[order])[last] / labels.sum()
    false = np.cumsum(1 - labels[order])[last] / (1 - labels).sum()
    return [(0.0, 0.0), *zip(false.tolist(), true.tolist(), strict=True)]


def draw(result: HeldOut, path: str | Path) -> None:
    """ROC and calibration side by side. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("drawing needs matplotlib: `pip install whimbrel[plots]`") from error
    figure = Figure(figsize=(8, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([x for x, _ in result.roc], [y for _, y in result.roc], color="tab:blue")
    left.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    left.set(xlabel="false positive rate", ylabel="true positive rate", title=f"ROC, area {result.auc:.4f}")
    right.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    right.plot([s for s, _, _ in result.calibration], [p for _, p, _ in result.calibration], "o-", color="tab:orange")
    title = f"calibration, error {result.calibration_error:.3f}"
    right.set(xlabel="score", ylabel="share of positives", title=title, xlim=(0, 1), ylim=(-0.02, 1.02))
    figure.savefig(path)
