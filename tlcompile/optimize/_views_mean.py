"""One answer out of several: the weighted mean of probabilities or of logits, or the largest; in numpy and as nodes.

Weights are one a view (or member), or one a view and class (D. Shanmugam et al., "Better Aggregation in Test-Time
Augmentation", ICCV 2021). The answers of a softmax stay a distribution: they are divided by their sum wherever that
may not be one. A number has no probabilities; its answer is the mean of the views' answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from tlcompile.errors import Problem

if TYPE_CHECKING:
    from tlcompile.artifacts import Signature
    from tlcompile.optimize._views_cut import Parts, Writer

Aggregation = Literal["probabilities", "logits", "max"]
Activation = Literal["softmax", "sigmoid", "identity"]
Weights = Sequence[float | Sequence[float]] | np.ndarray


class How(Protocol):
    """What is asked of the options of a pass that averages."""

    @property
    def aggregation(self) -> Aggregation: ...
    @property
    def weights(self) -> Weights: ...
    @property
    def temperature(self) -> float: ...


LEAST = 1e-30
"""A probability whose logarithm is asked for is at least this."""


def activation_of(signature: Signature) -> Activation:
    kinds: dict[str, Activation] = {"class": "softmax", "classes": "sigmoid", "number": "identity"}
    return kinds[signature.labels]


def problems(
    weights: Weights, aggregation: Aggregation, activation: Activation, count: int, width: int, where: str
) -> list[Problem]:
    """What is wrong with `weights` (none where they are empty) for `count` views and `width` classes.

    That they sum to one was looked at with the options, see `_shares`.
    """
    found = []
    if aggregation == "max" and activation == "identity":
        found.append(Problem(f"{where}.aggregation", "'max' is of probabilities, and this task learns a number"))
    if not len(weights):
        return found
    if aggregation == "max":
        found.append(Problem(f"{where}.weights", "the largest of the views takes no weights"))
    try:
        given = np.asarray(weights, np.float64)
    except ValueError:
        given = np.empty(0)
    if given.shape not in ((count,), (count, width)):
        what = f"expected {count} numbers, or {count} lists of {width} numbers, found shape {list(given.shape)}"
        found.append(Problem(f"{where}.weights", what))
    return found


def aggregate(
    logits: np.ndarray,
    activation: Activation,
    aggregation: Aggregation = "probabilities",
    weights: Weights = (),
    temperature: float = 1.0,
) -> np.ndarray:
    """Logits [V, N, K] -> float64 [N, K]: probabilities, or the mean logit where the task learns a number."""
    z = logits.astype(np.float64) / temperature
    if activation == "identity":
        return np.asarray((_column(weights, len(z)) * z).sum(0))
    if aggregation == "logits":
        return _probabilities((_column(weights, len(z)) * z).sum(0), activation)
    p = _probabilities(z, activation)
    p = p.max(0) if aggregation == "max" else (_column(weights, len(z)) * p).sum(0)
    return np.asarray(p / p.sum(-1, keepdims=True) if activation == "softmax" else p)


def column(options: How, count: int) -> np.ndarray:
    """float32, what `combine` multiplies with where all views of all examples count."""
    if options.aggregation == "max":
        return np.ones((count, 1, 1), np.float32)
    return _column(options.weights, count).astype(np.float32)


def in_unit(value: np.ndarray, signature: Signature) -> np.ndarray:
    """What `aggregate` gave as the graph answers it: a number in its own unit."""
    return value * signature.target.std + signature.target.mean if signature.target else value


def _column(weights: Weights, count: int) -> np.ndarray:
    """float64 [V, 1, 1] or [V, 1, K]; equal ones where none are given."""
    given = np.asarray(weights, np.float64) if len(weights) else np.full(count, 1 / count)
    return given.reshape(count, 1, -1)


def _probabilities(z: np.ndarray, activation: Activation) -> np.ndarray:
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-z)))
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def scaled(logits: str, temperature: float, write: Writer) -> str:
    return logits if temperature == 1 else write("Mul", logits, write.real(1 / temperature))


def combine(stacked: str, column: str, activation: Activation, options: How, write: Writer) -> str:
    """Logits [V, N, K] -> what is averaged, [N, K]: probabilities or logits, see `averages_logits`.

    `column` is what each is multiplied with before the sum, [V, 1 or N, 1 or K]; of the largest, 1 where it counts.
    """
    value = scaled(stacked, options.temperature, write)
    if not averages_logits(options.aggregation, activation):
        value = write("Sigmoid", value) if activation == "sigmoid" else write("Softmax", value, axis=-1)
    reduce = "ReduceMax" if options.aggregation == "max" else "ReduceSum"
    value = write(reduce, write("Mul", value, column), write.whole(0), keepdims=0)
    per_class = len(options.weights) and not isinstance(options.weights[0], float | int)
    distribution = activation == "softmax" and not averages_logits(options.aggregation, activation)
    if distribution and (options.aggregation == "max" or per_class):
        value = write("Div", value, write("ReduceSum", value, write.whole(-1), keepdims=1))
    return value


def averages_logits(aggregation: Aggregation, activation: Activation) -> bool:
    return aggregation == "logits" or activation == "identity"


def answer(value: str, parts: Parts, activation: Activation, of_logits: bool, write: Writer) -> None:
    """Make the graph's outputs of `value` [N, K]: `logits` and the answer, under their old names."""
    if of_logits:
        write("Identity", value, called="logits")
        write.nodes.extend(parts.answer)
        return
    write("Identity", value, called="probabilities")
    part = write("Max", value, write.real(LEAST))
    if activation == "sigmoid":
        part = write("Div", part, write("Max", write("Sub", write.real(1), value), write.real(LEAST)))
    write("Log", part, called="logits")
