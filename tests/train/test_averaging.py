"""Averages have the values of their formula, come back from a checkpoint, and batch norms fit them afterwards."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tlcompile.recipe.train_table import TrainTable
from tlcompile.train.averaging import Average, State, mean, recalibrate, soup


def one_weight(value: float) -> nn.Module:
    """A module whose state is one number."""
    module = nn.Module()
    module.register_parameter("w", nn.Parameter(torch.tensor(value, dtype=torch.float64)))
    return module


def states(*values: float) -> list[State]:
    return [{"w": torch.tensor([value], dtype=torch.float64)} for value in values]


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))


def batches(n: int, scale: float = 1.0) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return (({"x": 3 + scale * torch.randn(32, 4, generator=generator)}, torch.zeros(32)) for _ in range(n))


def train(module: nn.Module, average: Average, steps: range, epoch_of: int = 4) -> None:
    """Steps that move weights and statistics; an epoch has `epoch_of` of them."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        module(torch.randn(8, 4)).pow(2).mean().backward()
        optimizer.step()
        average.update_step(module)
        if step % epoch_of == epoch_of - 1:
            average.after_epoch(module, step // epoch_of)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(0.01, 0.999))
def test_ema_is_its_recursion_with_a_decay_that_warms_up(values: list[float], decay: float) -> None:
    average = Average(TrainTable(ema_decay=decay))
    expected = values[0]
    for t, value in enumerate(values):
        average.update_step(one_weight(value))
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * value
    state = average.weights()
    assert state is not None
    assert float(state["w"]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.data())
def test_swa_is_the_mean_after_each_of_the_last_epochs(values: list[float], data: st.DataObject) -> None:
    last = data.draw(st.integers(1, len(values)))
    average = Average(TrainTable(epochs=len(values), average_last=last))
    for epoch, value in enumerate(values):
        average.update_step(one_weight(1e9))
        average.after_epoch(one_weight(value), epoch)
    state = average.weights()
    assert state is not None
    assert float(state["w"]) == pytest.approx(np.mean(values[-last:]), rel=1e-9, abs=1e-9)


def test_nothing_is_averaged_where_the_recipe_asks_for_nothing() -> None:
    average = Average(TrainTable(epochs=2))
    train(normed(), average, range(8))
    assert average.weights() is None


def test_ema_averages_statistics_and_copies_counters() -> None:
    module, average = normed(), Average(TrainTable(ema_decay=0.9))
    train(module, average, range(8))
    state, now = average.weights(), module.state_dict()
    assert state is not None
    assert state.keys() == now.keys()
    assert state["1.num_batches_tracked"] == now["1.num_batches_tracked"] == 8
    assert not torch.equal(state["1.running_mean"], now["1.running_mean"])
    module.load_state_dict(state)


def test_averaging_does_not_touch_the_network_that_learns() -> None:
    plain, averaged = normed(), normed()
    train(plain, Average(TrainTable()), range(8))
    train(averaged, Average(TrainTable(ema_decay=0.9)), range(8))
    assert all(torch.equal(v, averaged.state_dict()[k]) for k, v in plain.state_dict().items())


@pytest.mark.parametrize("table", [TrainTable(epochs=4, ema_decay=0.9), TrainTable(epochs=4, average_last=3)])
def test_a_state_that_was_saved_goes_on_bit_for_bit(table: TrainTable) -> None:
    module, average = normed(), Average(table)
    train(module, average, range(9))
    kept = io.BytesIO()
    torch.save((module.state_dict(), average.state_dict()), kept)
    train(module, average, range(9, 16))
    kept.seek(0)
    weights, state = torch.load(kept, weights_only=True)
    again, resumed = normed(), Average(table)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(again, resumed, range(9, 16))
    expected, found = average.weights(), resumed.weights()
    assert expected
    assert found
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_recalibrated_statistics_are_those_of_all_examples_and_weights_stay() -> None:
    module = normed()
    module[1].running_mean.fill_(50.0)
    before = copy.deepcopy(module.state_dict())
    recalibrate(module, batches(5))
    with torch.no_grad():
        seen = module[0](torch.cat([inputs["x"] for inputs, _ in batches(5)]))
    torch.testing.assert_close(module[1].running_mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module[1].running_var, seen.var(0), rtol=0.05, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    assert (module.training, module[1].training, module[1].momentum) == (True, True, 0.1)


def test_norms_in_evaluation_mode_keep_the_statistics_that_they_have() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4), *normed())
    module[0].eval()
    recalibrate(module, batches(5))
    assert not module[0].running_mean.any()
    assert module[2].running_mean.any()


def test_a_network_without_batch_norms_is_not_even_run() -> None:
    def none() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        raise AssertionError("the loader was read")
        yield

    recalibrate(nn.Linear(4, 2), none())


def test_the_soup_takes_what_does_not_harm_in_the_order_given() -> None:
    asked = []

    def score(state: State) -> float:
        asked.append(float(state["w"]))
        return -abs(asked[-1] - 1.0)

    best, chosen = soup(states(4.0, 1.5, 0.5), [1, 0, 2], score)
    assert asked == [1.5, 2.75, 1.0]
    assert chosen == [1, 2]
    assert float(best["w"]) == 1.0


def test_a_tie_joins_the_soup() -> None:
    assert soup(states(1.0, 1.0), [0, 1], lambda state: 0.0)[1] == [0, 1]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8))
def test_the_soup_scores_no_less_than_the_best_that_went_in(values: list[float]) -> None:
    def score(state: State) -> float:
        return -abs(float(state["w"]) - 7.0)

    single = [score(state) for state in states(*values)]
    order = sorted(range(len(values)), key=single.__getitem__, reverse=True)
    best, chosen = soup(states(*values), order, score)
    assert score(best) >= max(single) - 1e-9
    assert chosen[0] == order[0]


def test_a_mean_keeps_dtypes_and_does_not_lose_small_parts_in_half_precision() -> None:
    parts = [{"h": torch.tensor([2048.0, 1.0], dtype=torch.float16), "n": torch.tensor(i)} for i in range(3)]
    found = mean(parts)
    assert found["h"].dtype == torch.float16
    assert found["h"].tolist() == [2048.0, 1.0]
    assert int(found["n"]) == 0
