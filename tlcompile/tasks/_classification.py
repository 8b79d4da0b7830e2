"""One label out of K, whatever the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tlcompile.tasks import _losses

if TYPE_CHECKING:
    from torch import Tensor

    from tlcompile.tasks import LossTable

LABELS = "class"
LOSSES = ("cross-entropy", "focal", "hinge", "bce", "kl", "cosine")
ACTIVATION = "softmax"
METRIC = "accuracy"


def loss(name: str, table: LossTable, counts: Sequence[int] | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss of logits [N, K] against classes int64 [N], or against soft targets float [N, K].

    `counts` are the training examples of each class; they are needed for balanced weights only.
    """
    weights = _losses.class_weights(table.class_weights, counts)
    smoothing, gamma = table.label_smoothing, table.focal_gamma

    def bce(logits: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
        return _losses.bce(logits, _losses.soft(targets, logits, smoothing), weight)

    functions: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
        "cross-entropy": lambda logits, targets, w: _losses.cross_entropy(logits, targets, w, smoothing),
        "focal": lambda logits, targets, w: _losses.focal(logits, targets, gamma, w, smoothing),
        "hinge": _losses.hinge,
        "bce": bce,
        "kl": lambda logits, targets, w: _losses.kl(logits, targets, w, smoothing),
        "cosine": lambda logits, targets, w: _losses.cosine(logits, targets, w, smoothing),
    }
    chosen = functions[name]

    def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
        logits = _losses.at_least_fp32(logits)
        return chosen(logits, targets, None if weights is None else logits.new_tensor(weights))

    return mean_loss


def score(logits: Tensor, targets: Tensor) -> Tensor:
    """float [N]: 1 where the largest logit is the target, or the largest of a soft target, else 0."""
    wanted = targets if targets.ndim == 1 else targets.argmax(-1)
    return (logits.argmax(-1) == wanted).float()
