"""The learning rate of every step, as a factor of each group's peak rate.

A linear warm-up comes first, then the shape that the recipe names. One-cycle is Smith & Topin's ("Super-Convergence",
2018) in the two cosine phases of torch's `OneCycleLR`, with its constants: the rate rises from 1/25 of the peak and
ends at 1/250,000, while momentum (beta1 of Adam) falls from 0.95 to 0.85 and returns, unless the recipe sets it.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from tlcompile.recipe.train_table import TrainTable

SHORT_TEXT_EPOCHS = 3
CYCLE_START, CYCLE_END = 1 / 25, 1 / 25e4
MOMENTUM_HIGH, MOMENTUM_LOW = 0.95, 0.85
BETTER = 1e-4  # a validation loss counts as better from this relative fall on, as in torch's ReduceLROnPlateau


def resolve(table: TrainTable, kind: str) -> str:
    """The schedule that `table` means for examples of `kind` ('image' or 'text')."""
    if table.schedule != "auto":
        return table.schedule
    short_text = kind == "text" and table.epochs <= SHORT_TEXT_EPOCHS
    return "constant" if short_text or table.optimizer == "schedulefree" else "cosine"


def warmup_share(table: TrainTable) -> float:
    """Share of the steps with rising rate: that of the recipe, else 0.05, and OneCycleLR's 0.3 for one-cycle."""
    if table.warmup_share != "auto":
        return table.warmup_share
    return 0.3 if table.schedule == "one-cycle" else 0.05


STATE = ("done", "scale", "best", "bad_epochs", "highest", "latest")


def factor(table: TrainTable, step: int, steps: int, epochs: int) -> float:
    """Share of the peak rate at `step` (from 0) of `steps`; step = steps is what the schedule ends at. Of plateau, what
    it would be without a fall."""
    if table.schedule == "auto":
        raise ValueError("'auto' is no schedule; `resolve` says which one it means")
    if table.schedule == "one-cycle":
        return _cycle(table, step, steps, CYCLE_START, 1.0, CYCLE_END)
    warmup = round(warmup_share(table) * steps)
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    done = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    if table.schedule == "cosine":
        return rising * 0.5 * (1 + math.cos(math.pi * done))
    if table.schedule == "linear":
        return rising * (1 - done)
    if table.schedule == "step":
        epoch = min(step, steps - 1) * epochs // steps
        return rising * float(table.step_factor ** (epoch // table.step_epochs))
    return rising


def momentum(table: TrainTable, step: int, steps: int) -> float:
    """Momentum of one-cycle at `step`."""
    return _cycle(table, step, steps, MOMENTUM_HIGH, MOMENTUM_LOW, MOMENTUM_HIGH)


def _cycle(table: TrainTable, step: int, steps: int, start: float, top: float, end: float) -> float:
    """A value that goes from `start` to `top` at the end of the warm-up and on to `end`, in two half cosines."""
    turn = max(0.0, warmup_share(table) * steps - 1)
    if step < turn:
        done, a, b = step / turn, start, top
    else:
        done, a, b = min(1.0, (step - turn) / max(steps - 1 - turn, 1e-9)), top, end
    return b + (a - b) / 2 * (1 + math.cos(math.pi * done))


class Schedule:
    """Writes the rate of each step into `optimizer`, from the moment it is made; made for `steps` optimizer steps.

    `table.schedule` is never 'auto' here. The state is four numbers and what was applied; rates follow from it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, table: TrainTable, steps: int, epochs: int) -> None:
        self.optimizer, self.table, self.steps, self.epochs = optimizer, table, steps, epochs
        self.done = 0
        self.scale, self.best, self.bad_epochs = 1.0, math.inf, 0  # of plateau
        self.highest = self.latest = 0.0  # factors with which the optimizer really stepped
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self._apply()

    def factor(self, step: int) -> float:
        """Share of the peak rate at `step`; of plateau with the falls so far."""
        return factor(self.table, step, self.steps, self.epochs) * self.scale

    def step(self) -> None:
        """After each step of the optimizer."""
        group = self.optimizer.param_groups[0]
        self.latest = group["lr"] / group["initial_lr"]
        self.highest = max(self.highest, self.latest)
        self.done += 1
        self._apply()

    def after_epoch(self, val_loss: float | None) -> None:
        """Plateau: the rate falls after more than `plateau_patience` epochs without a better validation loss."""
        if self.table.schedule != "plateau" or val_loss is None:
            return
        if val_loss < self.best * (1 - BETTER):
            self.best, self.bad_epochs = val_loss, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > self.table.plateau_patience:
            self.scale, self.bad_epochs = self.scale * self.table.step_factor, 0
        self._apply()

    def last_lr(self) -> list[float]:
        """The rate of each group in the next step."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def applied(self) -> dict[str, float]:
        """How many steps were taken, and the highest and the last factor of the peak rate that they really had."""
        return {"steps": self.done, "highest_factor": self.highest, "last_factor": self.latest}

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name in STATE:
            setattr(self, name, state[name])
        self._apply()

    def _apply(self) -> None:
        now = self.factor(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * now
            if self.table.schedule == "one-cycle":
                self._cycle_momentum(group, momentum(self.table, self.done, self.steps))

    def _cycle_momentum(self, group: dict[str, Any], value: float) -> None:
        if "momentum" in group and self.table.momentum == "auto":
            group["momentum"] = value
        elif "betas" in group and self.table.betas == "auto":
            group["betas"] = (value, group["betas"][1])
