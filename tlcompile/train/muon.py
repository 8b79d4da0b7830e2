"""Muon for matrices, AdamW for everything else, as one optimizer.

Muon replaces the momentum of a weight matrix by the nearest orthogonal one (K. Jordan et al., "Muon: An optimizer for
hidden layers in neural networks", 2024). Its step is scaled to the length of AdamW's, so that rates and decays that
suit AdamW suit it too (Liu et al., "Muon is Scalable for LLM Training", 2025, section 2.2, equation 4). torch's own
Muon takes 2-d parameters only and leaves the rest to a second optimizer. Here a convolution [out, in, h, w] counts as
the matrix [out, in*h*w], as in Jordan's, and there is one list of groups, one state and one step for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `matrices` true move by Muon, the others by AdamW. Each group brings its own hyper-parameters.

    The two inner optimizers own nothing: at each step they are handed this one's groups and state, so loading a state
    or changing a rate here is all there is to do.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        momentum: float,
        nesterov: bool,
        fused: bool = False,
    ) -> None:
        groups = list(params)
        super().__init__(groups, {"lr": lr})
        for group in (g for g in self.param_groups if g["matrices"]):
            group |= {"momentum": momentum, "nesterov": nesterov}
        # Groups are shared, so AdamW puts its defaults into ours. Muon has no state before its first step.
        others = [g for g in self.param_groups if not g["matrices"]]
        self._adamw = AdamW(others, lr, betas, eps, fused=fused or None) if others else None
        self._muon = Muon([torch.zeros(1, 1)], lr, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._adamw is not None:
            self._adamw.param_groups = [g for g in self.param_groups if not g["matrices"]]
            self._adamw.state = self.state
            self._adamw.step()
        for group in (g for g in self.param_groups if g["matrices"]):
            self._move_matrices(group)
        return loss

    def _move_matrices(self, group: dict[str, Any]) -> None:
        """One step of torch's Muon on the weights of `group`, each seen as a matrix."""
        weights = [w for w in group["params"] if w.grad is not None]
        matrices = [w.detach().flatten(1) for w in weights]  # a copy where memory is channels last
        for weight, matrix in zip(weights, matrices, strict=True):
            assert weight.grad is not None
            matrix.grad = weight.grad.flatten(1)
            self._muon.state[matrix] = self.state[weight]
        own = {key: group[key] for key in ("lr", "weight_decay", "momentum", "nesterov")}
        self._muon.param_groups = [{**self._muon.defaults, **own, "params": matrices}]
        self._muon.step()
        self._muon.state.clear()
        for weight, matrix in zip(weights, matrices, strict=True):
            if matrix.data_ptr() != weight.data_ptr():
                weight.copy_(matrix.view_as(weight))
