"""A number, whatever the input.

Training sees the target in standard deviations of the training split from its mean (`Split.labels`), and so do losses
and scores; the exported graph gives it back in its own units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tlcompile.tasks import _losses

if TYPE_CHECKING:
    from torch import Tensor

    from tlcompile.tasks import LossTable

LABELS = "number"
LOSSES = ("mse", "huber")
ACTIVATION = "identity"
METRIC = "R²"


def loss(name: str, table: LossTable, counts: Sequence[int] | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss of outputs [N, 1] against targets float [N]."""

    def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
        found = _losses.at_least_fp32(logits).squeeze(-1)
        wanted = targets.to(found.dtype)
        if found.shape != wanted.shape:  # would be broadcast
            raise ValueError(f"{list(logits.shape)} outputs for {list(targets.shape)} targets; one output is expected")
        return _losses.huber(found, wanted, table.huber_delta) if name == "huber" else _losses.mse(found, wanted)

    return mean_loss


def score(logits: Tensor, targets: Tensor) -> Tensor:
    """float [N]: 1 - squared error. Training targets have variance 1, so the mean is R² there and near it elsewhere."""
    return 1 - (_losses.at_least_fp32(logits).squeeze(-1) - targets) ** 2
