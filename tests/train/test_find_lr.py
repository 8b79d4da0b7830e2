"""The range test suggests a rate that works and leaves no trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tlcompile.errors import TlcompileError
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import optim
from tlcompile.train.find_lr import Curve, find, suggest

Batch = tuple[torch.Tensor, torch.Tensor]
ALL = ("adamw", "adam", "sgd", "lion", "muon", "schedulefree")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))


def batches(n: int = 20) -> list[Batch]:
    """64 points a batch; the class is on which side of a plane they lie."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(n):
        x = torch.randn(64, 8, generator=generator)
        found.append((x, (x[:, 0] > x[:, 1]).long()))
    return found


def run(module: nn.Module, loader: list[Batch], name: str = "adamw", **keys: object) -> tuple[float, Curve]:
    def loss(batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    def make(lr: float) -> torch.optim.Optimizer:
        return optim.optimizer(module, ("4",), TrainTable(optimizer=name, lr=lr), {"4.weight": 10.0})

    return find(module, loader, loss, make, **keys)  # type: ignore[arg-type]


def accuracy(lr: float, name: str) -> float:
    """After 100 steps with `lr`, on the examples of training."""
    module, loader = network(), batches()
    optimizer = optim.optimizer(module, ("4",), TrainTable(optimizer=name, lr=lr), {"4.weight": 10.0})
    for step in range(100):
        x, y = loader[step % len(loader)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    optim.to_eval(optimizer)
    module.eval()
    return float(np.mean([(module(x).argmax(1) == y).float().mean() for x, y in loader]))


@pytest.mark.parametrize("name", ALL)
def test_a_network_learns_at_the_suggested_rate(name: str) -> None:
    lr, curve = run(network(), batches(), name)
    rates = [rate for rate, _ in curve]
    assert rates[0] < lr < rates[-1]
    assert accuracy(lr, name) > 0.95
    assert accuracy(lr, name) > max(accuracy(rates[0], name), accuracy(1e3 * lr, name)) + 0.03


def test_it_gives_the_same_twice_whatever_the_random_state() -> None:
    first = run(network(), batches())
    module = network()
    torch.manual_seed(99)
    assert run(module, batches()) == first
    assert run(module, batches(), seed=1) != first


def test_weights_statistics_gradients_mode_and_random_states_are_as_before() -> None:
    module = network()
    module[3].eval()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    run(module, batches())
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert (module.training, module[1].training, module[3].training) == (True, True, False)


def test_an_optimizer_that_is_already_there_is_not_touched() -> None:
    module = network()
    real = torch.optim.AdamW(module.parameters(), 1e-3)
    module(batches(1)[0][0]).sum().backward()
    real.step()
    before = copy.deepcopy(real.state_dict())
    run(module, batches())
    after = real.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(after["state"][i][k], v) for i, s in before["state"].items() for k, v in s.items())


def test_everything_is_restored_when_the_loss_raises() -> None:
    module = network()
    before = copy.deepcopy(module.state_dict())
    calls: list[int] = []

    def broken(batch: Batch) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("out of memory")
        return module(batch[0]).pow(2).mean()

    with pytest.raises(RuntimeError, match="out of memory"):
        find(module, batches(), broken, lambda lr: torch.optim.SGD(module.parameters(), lr), lowest=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_groups_keep_the_ratio_of_their_rates() -> None:
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            seen.append([g["lr"] for g in self.param_groups])
            super().step()

    module = network()
    groups = [{"params": [module[0].weight], "lr": 1e-6}, {"params": [module[4].weight], "lr": 1e-5}]
    find(
        module,
        batches(),
        lambda batch: nn.functional.cross_entropy(module(batch[0]), batch[1]),
        lambda lr: Watched(groups, lr),
    )
    assert len(seen) > 20
    assert all(head == pytest.approx(10 * body) for body, head in seen)
    assert seen[0][0] == pytest.approx(1e-6)


def test_the_test_ends_where_the_loss_explodes() -> None:
    _, curve = run(network(), batches(), "sgd", highest=1e8)
    losses = [loss for _, loss in curve]
    assert len(curve) < 100
    assert max(losses) <= 4 * losses[0] + 4


def test_where_no_rate_helps_nothing_is_suggested() -> None:
    module = network()
    with pytest.raises(TlcompileError, match=r"train\.lr: no rate between 1\.0e-06 and .* lowered the loss"):
        find(
            module,
            batches(),
            lambda batch: module(batch[0]).sum() * 0 + 1.0,
            lambda lr: torch.optim.SGD(module.parameters(), lr),
        )


def test_a_loss_that_is_nan_at_once_is_said() -> None:
    module = network()
    with pytest.raises(TlcompileError, match=r"train\.lr: no rate lowered the loss"):
        find(
            module,
            batches(),
            lambda batch: module(batch[0]).sum() * float("nan"),
            lambda lr: torch.optim.SGD(module.parameters(), lr),
        )


@given(st.integers(30, 150), st.floats(0.25, 0.75), st.floats(1.0, 3.0), st.integers(0, 9))
def test_the_suggestion_is_near_the_steepest_point_of_a_noisy_curve(n: int, at: float, drop: float, seed: int) -> None:
    place = np.linspace(0, 1, n)
    noise = np.random.default_rng(seed).normal(0, 0.02 * drop, n)
    losses = 4 - drop / (1 + np.exp(-(place - at) * 15)) + noise
    lr = suggest(list(zip((10.0**place).tolist(), losses.tolist(), strict=True)))
    assert np.log10(lr) == pytest.approx(at, abs=0.12)
    assert 1.0 < lr < 10.0
