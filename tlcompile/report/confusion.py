"""The confusion matrix of 2 to hundreds of classes: shares of a true class as colour, counts where they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlcompile.report.style import FAINT, INK, figure, names

_COUNTED = 25  # classes up to which each cell has room for its count
_NAMED = 120  # classes up to which each has its name on both sides
_INCH = 72.0  # points


def draw_confusion(facts: dict[str, Any], path: Path) -> bool:
    """`confusion` of the chosen variant; False where there is none."""
    counts = np.array(facts.get("confusion") or [])
    if counts.ndim != 2 or not counts.size:
        return False
    k = len(counts)
    labels = names([str(c) for c in facts.get("classes") or range(k)]) if k <= _NAMED else []
    font, cell = _sizes(k)
    name = max(map(len, labels), default=3) * font * 0.6 / _INCH  # inches that the longest name takes
    side = k * cell + name + 0.7
    with figure(path, side + 1.0, side if name > cell else k * cell + 1.0) as drawn:
        axes = drawn.subplots()
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = _grid(axes, shares)
        if labels:
            axes.set_xticks(range(k), labels, rotation=90 if name > cell else 0, fontsize=font)
            axes.set_yticks(range(k), labels, fontsize=font)
        if k <= _COUNTED:
            _counts(axes, counts, shares)
        axes.set(xlabel="predicted", ylabel="true")
        shrink = min(1.0, 3.5 / (k * cell))
        bar = drawn.colorbar(image, ax=axes, shrink=shrink, aspect=18, pad=0.02, label="share of the true class")
        bar.outline.set_visible(False)
    return True


def _sizes(k: int) -> tuple[float, float]:
    """(points of a name, inches of a cell) for `k` classes: all of it between 2.2 and about 15 inches wide."""
    if k <= _COUNTED:
        return 10.0, max(2.2 / k, 0.46)
    font = max(6.0, 10.0 - (k - _COUNTED) / 12)
    return font, font * 1.5 / _INCH if k <= _NAMED else 10 / k


def _grid(axes: Any, shares: np.ndarray) -> Any:
    """The coloured cells; the root scale shows a confusion of 1 % that a linear one would leave white."""
    from matplotlib.colors import PowerNorm

    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.grid(False)
    if len(shares) <= _NAMED:
        between = np.arange(len(shares) + 1) - 0.5
        axes.set_xticks(between, minor=True)
        axes.set_yticks(between, minor=True)
        axes.grid(which="minor", color="white" if len(shares) <= _COUNTED else "#e4e9f0", lw=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set(visible=True, color=FAINT)
    return image


def _counts(axes: Any, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.35 else INK
            axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=8)
