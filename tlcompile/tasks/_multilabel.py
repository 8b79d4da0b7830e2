"""Any number of labels out of K, none included, whatever the input: K questions of yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tlcompile.tasks import _losses

if TYPE_CHECKING:
    from torch import Tensor

    from tlcompile.tasks import LossTable

LABELS = "classes"
LOSSES = ("bce", "focal")
ACTIVATION = "sigmoid"
METRIC = "label accuracy"


def loss(name: str, table: LossTable, counts: Sequence[int] | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss over N and K of logits [N, K] against targets float [N, K] in 0..1.

    Class weights multiply what the positives of a class count. Label smoothing draws both answers towards 1/2.
    """
    weights = _losses.class_weights(table.class_weights, counts)
    smoothing, gamma = table.label_smoothing, table.focal_gamma

    def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
        logits = _losses.at_least_fp32(logits)
        weight = None if weights is None else logits.new_tensor(weights)
        given = targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        if name == "focal":
            return _losses.binary_focal(logits, given, gamma, weight)
        return _losses.bce(logits, given, weight)

    return mean_loss


def score(logits: Tensor, targets: Tensor) -> Tensor:
    """float [N]: the share of an example's K labels that are right; a label is given where its probability is > 1/2."""
    return ((logits > 0) == (targets > 0.5)).float().mean(-1)
