"""Which pictures the facts allow, and their captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlcompile.report.confusion import draw_confusion
from tlcompile.report.curves import draw_curves
from tlcompile.report.early_exit import draw_early_exit
from tlcompile.report.predictions import draw_predictions
from tlcompile.report.scatter import draw_variants

_ALL = {
    "variants": draw_variants,
    "curves": draw_curves,
    "confusion": draw_confusion,
    "predictions": draw_predictions,
    "early_exit": draw_early_exit,
}


def draw_all(facts: dict[str, Any], folder: Path) -> set[str]:
    """Draw into `folder/NAME.png` what there are facts for; the names drawn, of those in `_ALL`."""
    return {name for name, draw in _ALL.items() if draw(facts, folder / f"{name}.png")}
