"""What is told of weights where a recipe is read: no graph is there yet, and numpy is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Weights = TypeVar("Weights", bound=Sequence[float | tuple[float, ...]])
NEAR = 1e-4
"""How far from one a sum may be: weights in a recipe are rounded."""


def shares(weights: Weights) -> Weights:
    """`weights` of voices (views, members), one each or a list of one a class for each; none where they are equal.

    ValueError where one is below 0 or they do not sum to one over the voices, in some class where there are classes.
    """
    rows = [weight if isinstance(weight, tuple) else (weight,) for weight in weights]
    if not rows:
        return weights
    if len({type(weight) is tuple for weight in weights}) > 1 or len({len(row) for row in rows}) > 1:
        raise ValueError("expected one number each, or lists of the same length")
    sums = [sum(column) for column in zip(*rows, strict=True)]
    least = min((number for row in rows for number in row), default=0.0)
    worst = max(sums, key=lambda total: abs(total - 1), default=0.0)
    if least < 0 or abs(worst - 1) > NEAR:
        what = "weights are at least 0 and sum to one" + (" in each class" if isinstance(weights[0], tuple) else "")
        raise ValueError(f"{what}; found a sum of {worst:.4g}, the least {least:.4g}")
    return weights
