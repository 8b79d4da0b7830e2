"""Averages of weights that can be kept instead of the last ones.

    EMA    after each step a moving average of all weights and buffers (Polyak & Juditsky 1992). Its decay warms up as
           min(decay, (1 + t) / (10 + t)) at update t (`num_updates` of tf.train.ExponentialMovingAverage), so that a
           short run is not dominated by its random start
    SWA    the mean of the weights after each of the last N epochs (Izmailov et al., "Averaging Weights Leads to Wider
           Optima and Better Generalization", 2018, algorithm 1)
    soup   the mean of those states that a greedy choice on held-out examples picks

The mean of two networks is a network whose batch norms have seen nothing yet: SWA, soup and Schedule-Free's average
need `recalibrate`. EMA averages their statistics along with the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from tlcompile.recipe.train_table import TrainTable

State = dict[str, Tensor]


class Average:
    """EMA or SWA, as `table` says, or nothing. Counts are those of the weights that went in."""

    def __init__(self, table: TrainTable) -> None:
        self.decay = table.ema_decay
        self.first_epoch = table.epochs - table.average_last  # from 0; = epochs where there is no SWA
        self.count = 0
        self.state: State = {}

    def update_step(self, module: nn.Module) -> None:
        """After each step of the optimizer."""
        if self.decay:
            decay = min(self.decay, (1 + self.count) / (10 + self.count))
            self._add(module, get_ema_multi_avg_fn(decay))

    def after_epoch(self, module: nn.Module, epoch: int) -> None:
        """After each epoch, the first being 0."""
        if epoch >= self.first_epoch:
            self._add(module, get_swa_multi_avg_fn())

    def weights(self) -> State | None:
        """The average as a state dict of the module; None where nothing was averaged."""
        return self.state or None

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.state = state["count"], dict(state["state"])

    @torch.no_grad()
    def _add(self, module: nn.Module, average: Callable[[Any, Any, Any], None]) -> None:
        """The first state is copied, later ones are averaged in; counters (integers) are always those of the last."""
        now: State = module.state_dict()
        if not self.state:
            self.state = {name: value.clone() for name, value in now.items()}
        else:
            self.state = {name: old.to(now[name].device) for name, old in self.state.items()}
            floats = [name for name, value in now.items() if value.is_floating_point()]
            average([self.state[n] for n in floats], [now[n] for n in floats], self.count)
            for name in now.keys() - set(floats):
                self.state[name].copy_(now[name])
        self.count += 1


def learning_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms in training mode: those in evaluation mode keep the statistics that they have."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]


@torch.no_grad()
def recalibrate(module: nn.Module, loader: Iterable[tuple[dict[str, Tensor], Any]]) -> None:
    """`learning_norms` forget their statistics and take the mean of those of all batches; weights and modes stay."""
    norms = {norm: norm.momentum for norm in learning_norms(module)}
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # every batch counts as much as any other
    device = next(module.parameters()).device
    for inputs, _ in loader:
        module(*(value.to(device) for value in inputs.values()))
    for norm, momentum in norms.items():
        norm.momentum = momentum


def soup(
    states: Sequence[Mapping[str, Tensor]], order: Sequence[int], score: Callable[[State], float]
) -> tuple[State, list[int]]:
    """Greedy soup (Wortsman et al., "Model soups", 2022, algorithm 1): the mean and the indices of what is in it.

    `order` has the indices of `states`, best first. A state joins if the mean with it scores at least as high (higher
    is better) as the mean without it.
    """
    chosen = [order[0]]
    best = mean([states[order[0]]])
    best_score = score(best)
    for index in order[1:]:
        tried = mean([states[i] for i in [*chosen, index]])
        if (tried_score := score(tried)) >= best_score:
            chosen, best, best_score = [*chosen, index], tried, tried_score
    return best, chosen


def mean(states: Sequence[Mapping[str, Tensor]]) -> State:
    """Entry by entry, computed in float64 and kept in the dtype of the first; integers are those of the first."""
    return {
        name: torch.stack([s[name].double() for s in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }
