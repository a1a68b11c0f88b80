"""The tunnel's pictures (PNG, with matplotlib): curves of a sweep, sizes of activations, a fitted sigmoid, a loss law."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whimbrel.errors import MissingExtra, WriteError
from whimbrel.tunnel.coordcheck import CoordCheck
from whimbrel.tunnel.ladder import LadderFit, LossPoint
from whimbrel.tunnel.score_points import Point
from whimbrel.tunnel.sigmoid import SigmoidFit
from whimbrel.tunnel.transfer import Transfer

COLORS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#b5a300", "#7a7a7a")
"""Of widths and sizes, small to large; dark to light, apart for every eye."""
TITLES = {"mup": "muP", "standard": "standard parametrization"}


def write_transfer(found: Sequence[Transfer], path: str | Path) -> None:
    """Loss over learning rate, a curve for each width, a panel for each parametrization; a star on each optimum."""
    figure, panels = _panels(len(found), share=True)
    for axes, one in zip(panels, found, strict=True):
        for color, result in zip(COLORS, one.widths, strict=False):
            ended = [(rate, loss) for rate, loss in result.losses if loss is not None]
            axes.plot(*zip(*ended, strict=True), "o-", color=color, label=f"width {result.width}")
            axes.plot([result.best_rate], [result.best_loss], "*", color=color, markersize=16)
        title = (
            f"{TITLES.get(one.parametrization, one.parametrization)}: best rates within a factor of {2**one.moves:.3g}"
        )
        axes.set(xscale="log", xlabel="learning rate", ylabel="held-out loss, nats per token", title=title)
        rates = sorted({rate for result in one.widths for rate, _ in result.losses})
        axes.set_xticks(rates, [f"{rate:.2g}" for rate in rates], rotation=45)
        axes.minorticks_off()
        axes.legend()
    _save(figure, path)


def write_coordcheck(found: Sequence[CoordCheck], path: str | Path) -> None:
    """Mean |x| over width after the last step, a line for each place, a panel for each parametrization."""
    figure, panels = _panels(len(found), share=True)
    for axes, one in zip(panels, found, strict=True):
        for index, (place, rows) in enumerate(one.sizes.items()):
            color = "#c0392b" if place == "logits" else COLORS[min(index, 4)]
            axes.plot(one.widths, rows[-1], "o-", color=color, label=f"{place}: slope {one.slopes[place][-1]:+.2f}")
        steps = len(next(iter(one.sizes.values()))) - 1
        title = f"{TITLES.get(one.parametrization, one.parametrization)}, after {steps} steps"
        axes.set(xscale="log", yscale="log", xlabel="width", ylabel="mean |x|", title=title)
        axes.set_xticks(one.widths, [str(width) for width in one.widths])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    _save(figure, path)


def write_sigmoids(
    fits: Mapping[str, SigmoidFit], points: Sequence[Point], held: Sequence[Point], path: str | Path
) -> None:
    """Each task's points, curve and band; what was held out as crosses."""
    figure, panels = _panels(len(fits))
    for axes, (task, fit) in zip(panels, fits.items(), strict=False):
        mine = [point for point in points if point.task == task]
        out = [point for point in held if point.task == task]
        axes.plot([p.loss for p in mine], [p.score for p in mine], ".", color="#9ecae1", markersize=2)
        low = min([fit.losses[0], *(p.loss for p in out)])
        losses = np.linspace(low - 0.05 * (fit.losses[1] - low), fit.losses[1], 200)
        axes.fill_between(losses, *fit.band(losses), color="#3b528b", alpha=0.25, linewidth=0)
        axes.plot(losses, fit.curve(losses), color="#3b528b")
        for point in out:
            axes.plot([point.loss], [point.score], "x", color="#c0392b", markersize=9, markeredgewidth=2)
            axes.annotate(point.model, (point.loss, point.score), xytext=(6, 2), textcoords="offset points", fontsize=8)
        axes.set(xlabel="conditional loss", ylabel="score", title=task)
    _save(figure, path)


def write_ladder(fit: LadderFit, points: Sequence[LossPoint], held: Sequence[LossPoint], path: str | Path) -> None:
    """Loss over tokens, a colour for each size; lines are the law, crosses and bars what was held out and its band."""
    figure, (axes,) = _panels(1)
    everything = [*points, *held]
    tokens = np.geomspace(min(p.tokens for p in everything), max(p.tokens for p in everything), 100)
    for index, size in enumerate(sorted({p.parameters for p in everything})):
        color = COLORS[index % len(COLORS)]
        axes.plot(tokens, fit.law(size, tokens), color=color, label=f"{size:.3g} parameters")
        mine = [p for p in points if p.parameters == size]
        axes.plot([p.tokens for p in mine], [p.loss for p in mine], "o", color=color, markersize=4)
    for point in held:
        low, high = fit.band(point.parameters, point.tokens)
        axes.plot([point.tokens] * 2, [low, high], color="#c0392b")
        axes.plot([point.tokens], [point.loss], "x", color="#c0392b", markersize=9, markeredgewidth=2)
    axes.set(xscale="log", xlabel="training tokens", ylabel="loss, nats per token", title="L(N, D); crosses: held out")
    axes.legend(fontsize=8)
    _save(figure, path)


def _panels(count: int, *, share: bool = False) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("a picture needs matplotlib: pip install 'whimbrel[plots]'") from None
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(max(6.0, (4.8 if share else 3.4) * columns), 4.2 * rows if rows == 1 else 3.2 * rows), dpi=110
    )
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share)
    return figure, list(grid.flat)[:count]


def _save(figure: Any, path: str | Path) -> None:
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise WriteError(f"{path}: the picture can't be written: {error.strerror}") from None
