"""Tasks, one a file: what a label is, the losses that fit it, how answers are judged while training.

A task's module has
    KIND         'image' or 'text'
    LABELS       what an example's label is: 'class' (one of K), 'classes' (any of K) or 'number'
    LOSSES       the names of its losses, the default first
    ACTIVATION   what turns the network's outputs into its answer: 'softmax', 'sigmoid' or 'identity'
    METRIC       what the mean of `score` is called in reports
    loss(name, table, counts)   -> function (logits, targets) -> mean loss
    score(logits, targets)      -> float [N]; its mean is the headline figure
It knows neither libraries nor backends. `check` says before any training what of `[train]` does not fit the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

from tlcompile.errors import Problem, nearest, one_of

__all__ = ["LossTable", "check", "loss_name"]


class Mixing(Protocol):
    @property
    def mixup(self) -> float: ...
    @property
    def cutmix(self) -> float: ...


class LossTable(Protocol):
    """What is asked of the recipe's `[train]`."""

    @property
    def loss(self) -> str: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def class_weights(self) -> str | Sequence[float]: ...
    @property
    def focal_gamma(self) -> float: ...
    @property
    def huber_delta(self) -> float: ...
    @property
    def head_start(self) -> bool: ...
    @property
    def augment(self) -> Mixing: ...


def loss_name(table: LossTable, task: ModuleType) -> str:
    """The loss that `table` asks for; 'auto' is the first of the task's."""
    name: str = task.LOSSES[0] if table.loss == "auto" else table.loss
    return name


def check(table: LossTable, task: ModuleType, n_classes: int | None = None) -> list[Problem]:
    """What of `table` does not fit `task`; imports no torch. `n_classes` is None where the data is not yet known."""
    name = task.__name__.rpartition(".")[2].replace("_", "-")
    problems = []
    if table.loss != "auto" and table.loss not in task.LOSSES:
        what = f"'{table.loss}' does not fit {name}, which takes {one_of(task.LOSSES)}"
        problems.append(Problem("train.loss", what, nearest(table.loss, task.LOSSES)))
    if table.head_start and task.LABELS != "class":
        problems.append(Problem("train.head_start", f"fits a head of one class; {name} learns something else"))
    problems += _weight_problems(table.class_weights, n_classes) if task.LABELS != "number" else []
    if task.LABELS == "number":
        asked = {
            "label_smoothing": table.label_smoothing > 0,
            "class_weights": table.class_weights != "none",
            "augment.mixup": table.augment.mixup > 0,
            "augment.cutmix": table.augment.cutmix > 0,
        }
        problems += [
            Problem(f"train.{key}", f"is for classes; {name} learns a number") for key, on in asked.items() if on
        ]
    return problems


def _weight_problems(weights: str | Sequence[float], n_classes: int | None) -> list[Problem]:
    if isinstance(weights, str):
        return []
    problems = []
    if n_classes is not None and len(weights) != n_classes:
        what = f"found {len(weights)} weights, expected one for each of {n_classes} classes in their order"
        problems.append(Problem("train.class_weights", what))
    if any(weight < 0 for weight in weights) or not any(weights):
        problems.append(Problem("train.class_weights", "expected numbers from 0 on, and not all of them 0"))
    return problems
