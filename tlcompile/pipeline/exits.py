"""From which confidence on the first voice may answer alone: chosen on held-out examples, with the curve of all others.

Thresholds are tried from the most careful one on. The first whose answers are not shown to be as good as those of all
voices ends the row, so that each may be tested at the whole risk (fixed-sequence testing, as in A. Angelopoulos et
al., "Learn then Test: Calibrating Predictive Algorithms to Achieve Risk Control", arXiv 2110.01052).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlcompile.confidence import confidence
from tlcompile.evaluate.statistics import paired_drop
from tlcompile.pipeline.pays import Held

STEPS = 20
"""Shares of examples that leave early: 1/20, 2/20, …, all."""


def choose(held: Held, kept: Sequence[int], margin: float, alpha: float) -> dict[str, Any]:
    """`threshold` (None where none is shown to be as good), `left`: the share of examples that leave, and `curve`.

    A row of `curve` has `threshold` (None: nobody leaves), `left` and `score`, the mean of all examples'.
    """
    first, every = held.answers(kept[:1]), held.answers(kept)
    sure = confidence(first, held.labels == "classes")
    full = held.scores(every)
    curve: list[dict[str, Any]] = [{"threshold": None, "left": 0.0, "score": float(full.mean())}]
    chosen, shown = curve[0], True
    for threshold in thresholds(sure):
        leaves = sure >= threshold
        scores = held.scores(np.where(leaves[:, None], first, every))
        curve.append({"threshold": threshold, "left": float(leaves.mean()), "score": float(scores.mean())})
        drop = paired_drop(full, scores, alpha)
        shown = shown and (drop.upper < margin or drop.b == drop.c == 0)
        chosen = curve[-1] if shown else chosen
    return {"threshold": chosen["threshold"], "left": chosen["left"], "margin": margin, "curve": curve}


def thresholds(sure: np.ndarray) -> list[float]:
    """Falling, each in the middle between two confidences of `sure` [N], or just below the least one."""
    values = np.sort(np.asarray(sure, np.float64))[::-1]
    places = sorted({-(-len(values) * step // STEPS) for step in range(1, STEPS + 1)})
    below = np.append(values[1:], values[-1] - 2e-6)
    return [float(values[n - 1] + below[n - 1]) / 2 for n in places if values[n - 1] > below[n - 1]]
