"""The learning-rate range test (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3).

The network trains for a hundred steps while the rate rises exponentially. The loss first rests, then falls, then
explodes. Suggested is the rate at which it falls most steeply over the logarithm of the rate, which leaves a factor of
a few to the rate where it stops falling.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from tlcompile.errors import Problem, TlcompileError
from tlcompile.train.optim import to_train

Curve = list[tuple[float, float]]  # rate, loss before the step with it

DIVERGED = 4.0  # times the least loss so far: the test ends (as fastai's does)
NEIGHBOURHOOD = 12  # a twelfth of the steps to each side of a step are its neighbours
LEAST_FALL = 0.01  # of the mean loss at the beginning


def find(
    module: nn.Module,
    loader: Iterable[Any],
    step_loss: Callable[[Any], Tensor],
    make_optimizer: Callable[[float], torch.optim.Optimizer],
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    clip_norm: float = math.inf,
    backward: Callable[[Tensor], None] = Tensor.backward,
    seed: int = 0,
) -> tuple[float, Curve]:
    """The suggested rate and the curve. `module` and all random states are as before when it returns.

    `step_loss` is the loss of one batch of `loader`, which starts anew when it ends. `make_optimizer(lr)` makes a new
    optimizer; where its groups have other rates than `lr`, they keep their ratio. TlcompileError where no rate lowers
    the loss.
    """
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = make_optimizer(lowest)
    ratios = [group["lr"] / lowest for group in optimizer.param_groups]
    to_train(optimizer)
    curve: Curve = []
    with _own_randomness(seed):
        try:
            for lr, batch in zip(np.geomspace(lowest, highest, steps).tolist(), _endless(loader), strict=False):
                for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                    group["lr"] = lr * ratio
                optimizer.zero_grad()
                loss = step_loss(batch)
                value = float(loss.detach())
                if not math.isfinite(value) or value > DIVERGED * min((v for _, v in curve), default=value):
                    break
                curve.append((lr, value))
                backward(loss)
                nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
                optimizer.step()
        finally:
            module.load_state_dict(before)
            module.zero_grad()
    return suggest(curve), curve


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Inside, random numbers follow from `seed`; afterwards all generators are where they were."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            set_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def suggest(curve: Curve) -> float:
    """The rate of the steepest fall: the least slope of a line through a step and its neighbours (Savitzky-Golay).

    Never one of the first or last rates of the curve, which have neighbours on one side only.
    """
    losses = np.array([value for _, value in curve])
    reach = max(2, len(curve) // NEIGHBOURHOOD)
    if len(curve) > 2 * reach:
        around = np.arange(-reach, reach + 1)
        slopes = np.correlate(losses, around / (around @ around), "valid")
        means = np.correlate(losses, np.full(len(around), 1 / len(around)), "valid")
        if means[0] - means.min() >= LEAST_FALL * abs(means[0]):
            return curve[reach + int(np.argmin(slopes))][0]
    tried = f" between {curve[0][0]:.1e} and {curve[-1][0]:.1e}" if curve else ""
    what = f"no rate{tried} lowered the loss, so none can be suggested; state a number and check data and loss"
    raise TlcompileError(Problem("train.lr", what))
