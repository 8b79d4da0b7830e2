"""Loss and headline figure per epoch, on training and validation examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlcompile.report.style import COLOURS, figure, whole_numbers
from tlcompile.report.tables import metric

_LINES = (("train", "training", COLOURS[0], "o"), ("val", "validation", COLOURS[1], "s"))


def draw_curves(facts: dict[str, Any], path: Path) -> bool:
    """Two panels out of `history`; False where there is none."""
    history = facts.get("history") or []
    panels = [name for name in ("loss", "accuracy") if any(_points(history, f"{side}_{name}") for side, *_ in _LINES)]
    if not panels:
        return False
    with figure(path, 4.6 * len(panels), 3.4) as drawn:
        for axes, name in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for side, label, colour, marker in _LINES:
                points = _points(history, f"{side}_{name}")
                if not points:
                    continue
                last = f"{label}, {points[-1][1]:.3f} at the end"
                mark = "" if len(points) > 40 else marker
                axes.plot(*zip(*points, strict=True), color=colour, marker=mark, ms=4, label=last)
            title = name if name == "loss" else metric(facts)
            axes.set(title=title[0].upper() + title[1:], xlabel="epoch")
            whole_numbers(axes)
            axes.legend(loc="best")
    return True


def _points(history: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) where the epoch has that value."""
    return [(row.get("epoch", i), row[key]) for i, row in enumerate(history, 1) if row.get(key) is not None]
