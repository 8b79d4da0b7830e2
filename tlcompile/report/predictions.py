"""Numbers as they are against numbers as they were predicted: on the diagonal a prediction is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlcompile.report.style import COLOURS, FAINT, figure


def draw_predictions(facts: dict[str, Any], path: Path) -> bool:
    """`predictions` of the chosen variant; False where there are none."""
    pairs = np.array(facts.get("predictions") or [], float)
    if pairs.ndim != 2:
        return False
    low, high = pairs.min(), pairs.max()
    room = (high - low) * 0.04 or 1.0
    ends = (low - room, high + room)
    name = ((facts.get("data") or {}).get("target") or {}).get("name", "target")
    with figure(path, 4.4, 4.2) as drawn:
        axes = drawn.subplots()
        axes.plot(ends, ends, color=FAINT, lw=1)
        axes.plot(*pairs.T, "o", ms=4, alpha=0.5, mew=0, color=COLOURS[0])
        axes.set(xlim=ends, ylim=ends, xlabel=f"{name}, true", ylabel=f"{name}, predicted")
    return True
