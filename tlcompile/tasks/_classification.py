"""One label out of K, whatever the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy (nats) of logits [N, K] against class indices [N]."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """bool [N]: whether the largest logit is the target."""
    return logits.argmax(-1) == targets
