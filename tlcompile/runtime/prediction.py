"""What a bundle says of one item, by what it was taught: one class, several classes, or a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlcompile.artifacts import Signature


@dataclass(frozen=True)
class Prediction:
    """The most probable class, and the `top` most probable ones with their probabilities, best first."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class LabelsPrediction:
    """The classes whose probability is above 1/2, best first, and the `top` most probable ones of all."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class NumberPrediction:
    """The number, in the unit of the target it was taught."""

    value: float


AnyPrediction = Prediction | LabelsPrediction | NumberPrediction


def prediction(answer: np.ndarray, signature: Signature, top: int) -> AnyPrediction:
    """One row [K] of the answer in words."""
    if signature.labels == "number":
        return NumberPrediction(float(answer[0]))
    order = np.argsort(-answer, kind="stable")
    found = {signature.classes[i]: float(answer[i]) for i in order[:top]}
    if signature.labels == "classes":
        return LabelsPrediction(tuple(signature.classes[i] for i in order if answer[i] > 0.5), found)
    label, probability = next(iter(found.items()))
    return Prediction(label, probability, found)
