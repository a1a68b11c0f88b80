"""A grid of scores as a picture (PNG, with matplotlib) or as shades of characters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whimbrel.errors import MissingExtra

SHADES = " ░▒▓█"
"""From nothing found to everything found."""


def shade(score: float) -> str:
    """A character for a score in per cent; only 100 is full, only 0 is empty."""
    inner = 1 + int(score / 100 * (len(SHADES) - 2))
    return SHADES[0] if score <= 0 else SHADES[-1] if score >= 100 else SHADES[min(inner, len(SHADES) - 2)]


def write_png(table: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Lengths to the right, depths down, red for 0 and blue for 100 per cent (apart for every eye); a missing cell stays grey.

    ``table``: the ``table`` of a report: depth, length and score (per cent) of each cell. Raises ``MissingExtra``
    without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra(
            "a picture needs matplotlib: pip install 'whimbrel[plots]'; the grid is in the JSON all the same"
        ) from None
    scores = {(cell["depth"], cell["length"]): cell["score"] for cell in table}
    depths, lengths = (sorted({cell[axis] for cell in table}) for axis in ("depth", "length"))
    figure: Any = Figure(figsize=(2.5 + 0.75 * len(lengths), 1.8 + 0.45 * len(depths)), dpi=150, layout="constrained")
    axes = figure.subplots()
    grid = [[scores.get((depth, length), float("nan")) for length in lengths] for depth in depths]
    image = axes.imshow(grid, cmap="RdYlBu", vmin=0, vmax=100, aspect="auto")
    axes.set_facecolor("lightgrey")
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            if (score := scores.get((depth, length))) is not None:
                ink = "black" if 15 < score < 85 else "white"
                axes.text(column, row, f"{score:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45, ha="right")
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set(xlabel="tokens of the prompt", ylabel="depth of the needle", title=title)
    figure.colorbar(image, label="found, per cent")
    figure.savefig(path, format="png")
