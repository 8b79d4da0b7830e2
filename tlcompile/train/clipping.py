"""Gradients cut down to a norm, and the proof that they were."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Clipping:
    """Scales gradients down to the L2 norm `limit` (R. Pascanu et al., ICML 2013, section 3.2).

    `clipped` is the norm measured after the first cut, which is what `applied.json` says; 0 as long as none was needed.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.calls, self.clipped = limit, 0, 0.0

    def __call__(self, parameters: list[nn.Parameter]) -> None:
        norm = nn.utils.clip_grad_norm_(parameters, self.limit)
        self.calls += 1
        if not self.clipped and norm > self.limit:
            self.clipped = float(nn.utils.get_total_norm(gradients(parameters)))

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "clipped": self.clipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls, self.clipped = state["calls"], state["clipped"]

    def applied(self) -> float | None:
        """The norm that gradients were cut to, the limit where none reached it; None where nothing was ever cut."""
        return (self.clipped or self.limit) if self.calls else None


def gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if isinstance(p.grad, torch.Tensor)]
