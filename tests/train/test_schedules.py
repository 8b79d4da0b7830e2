"""Rates have the values of their formula, torch's where torch has the same schedule, and a killed run resumes them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from tlcompile.recipe.train_table import TrainTable
from tlcompile.train.schedules import Schedule, factor, momentum, resolve, warmup_share

NAMES = ("cosine", "constant", "linear", "step", "one-cycle", "plateau")


def optimizer(*rates: float, kind: type[torch.optim.Optimizer] = torch.optim.SGD, **keys: Any) -> torch.optim.Optimizer:
    """One group for each rate."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1.0,)]
    return kind(groups, **keys)


def table(schedule: str, epochs: int = 10, **keys: Any) -> TrainTable:
    return TrainTable(schedule=schedule, epochs=epochs, **keys)


def rates(schedule: Schedule, inner: torch.optim.Optimizer, n: int) -> list[float]:
    """The rate that group 0 has in each of `n` steps."""
    found = []
    for _ in range(n):
        found.append(inner.param_groups[0]["lr"])
        inner.step()
        schedule.step()
    return found


@given(st.sampled_from(NAMES), st.integers(1, 400), st.integers(1, 12), st.floats(0, 0.9))
def test_every_factor_lies_between_0_and_1(name: str, steps: int, epochs: int, warmup: float) -> None:
    keys = {"step_epochs": 1} if name == "step" else {}
    recipe = table(name, max(epochs, 4), warmup_share=warmup, **keys)
    assert all(0 <= factor(recipe, s, steps, recipe.epochs) <= 1 for s in range(steps + 1))


@given(st.sampled_from(["cosine", "constant", "linear", "step", "plateau"]), st.integers(1, 400), st.floats(0, 0.9))
def test_the_warm_up_rises_in_equal_steps_to_the_peak(name: str, steps: int, share: float) -> None:
    recipe = table(name, warmup_share=share, step_epochs=9)
    rising = round(share * steps)
    values = [factor(recipe, s, steps, 10) for s in range(min(rising, steps * 9 // 10))]
    assert values == pytest.approx([(i + 1) / rising for i in range(len(values))])


@given(st.integers(1, 400), st.floats(0, 0.9), st.data())
def test_after_the_warm_up_cosine_and_linear_fall_to_zero_by_their_formula(
    steps: int, share: float, data: st.DataObject
) -> None:
    warmup = round(share * steps)
    step = data.draw(st.integers(warmup, steps))
    assume(steps > warmup)
    done = (step - warmup) / (steps - warmup)
    cosine, linear = (factor(table(n, warmup_share=share), step, steps, 10) for n in ("cosine", "linear"))
    assert cosine == pytest.approx((1 + math.cos(math.pi * done)) / 2, abs=1e-12)
    assert linear == pytest.approx(1 - done, abs=1e-12)
    assert factor(table("constant", warmup_share=share), step, steps, 10) == 1


def test_half_way_the_cosine_is_one_half() -> None:
    assert factor(table("cosine", warmup_share=0.0), 50, 100, 10) == pytest.approx(0.5)


@given(st.integers(1, 9), st.floats(0.01, 0.9), st.integers(1, 30))
def test_step_falls_after_every_so_many_epochs(every: int, by: float, per_epoch: int) -> None:
    recipe = table("step", step_epochs=every, step_factor=by, warmup_share=0.0)
    values = [factor(recipe, s, 10 * per_epoch, 10) for s in range(10 * per_epoch)]
    assert values == pytest.approx([by ** (s // per_epoch // every) for s in range(10 * per_epoch)])


@given(st.integers(2, 300), st.floats(0, 0.9))
def test_one_cycle_is_torchs_in_rate_and_momentum(steps: int, share: float) -> None:
    assume(share * steps - 1 > 1e-6)  # where the rise has no step torch begins below the peak, or divides by zero
    ours, theirs = (optimizer(0.5, 0.05, momentum=0.9) for _ in range(2))
    reference = OneCycleLR(theirs, [0.5, 0.05], total_steps=steps, pct_start=share)
    schedule = Schedule(ours, table("one-cycle", warmup_share=share), steps, 10)
    for step in range(steps):
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert a["lr"] == pytest.approx(b["lr"], rel=1e-6, abs=1e-12)
            assert a["momentum"] == pytest.approx(b["momentum"], rel=1e-9)
        ours.step()
        theirs.step()
        schedule.step()
        if step < steps - 1:
            reference.step()


def test_one_cycle_moves_the_first_beta_and_leaves_what_the_recipe_sets() -> None:
    inner = optimizer(1.0, kind=torch.optim.AdamW)
    schedule = Schedule(inner, table("one-cycle", warmup_share=0.5), 21, 10)
    betas = [inner.param_groups[0]["betas"]]
    for _ in range(21):
        inner.step()
        schedule.step()
        betas.append(inner.param_groups[0]["betas"])
    firsts = [b[0] for b in betas]
    assert (firsts[0], min(firsts), firsts[-1]) == pytest.approx((0.95, 0.85, 0.95), abs=1e-3)
    assert {b[1] for b in betas} == {0.999}
    fixed = optimizer(1.0, kind=torch.optim.AdamW, betas=(0.8, 0.9))
    Schedule(fixed, table("one-cycle", betas=(0.8, 0.9)), 21, 10).step()
    assert fixed.param_groups[0]["betas"] == (0.8, 0.9)
    plain = optimizer(1.0, momentum=0.0)
    Schedule(plain, table("one-cycle", momentum=0.0, optimizer="sgd"), 21, 10).step()
    assert plain.param_groups[0]["momentum"] == 0.0


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_without_a_step_to_rise_begins_at_the_peak(steps: int) -> None:
    recipe = table("one-cycle")
    assert factor(recipe, 0, steps, 10) == 1
    assert factor(recipe, steps, steps, 10) == pytest.approx(4e-6)
    assert momentum(recipe, 0, steps) == pytest.approx(0.85)


@given(
    st.lists(st.floats(0, 10) | st.just(float("nan")), min_size=1, max_size=9), st.integers(0, 3), st.floats(0.1, 0.9)
)
def test_plateau_falls_when_torchs_does(losses: list[float], patience: int, by: float) -> None:
    ours, theirs = optimizer(0.5, momentum=0.9), optimizer(0.5)
    schedule = Schedule(
        ours, table("plateau", plateau_patience=patience, step_factor=by, warmup_share=0.0), len(losses), 10
    )
    reference = ReduceLROnPlateau(theirs, factor=by, patience=patience, eps=0)
    for loss in losses:
        ours.step()
        schedule.step()
        schedule.after_epoch(loss)
        reference.step(loss)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])


def test_a_loss_that_hardly_falls_is_not_better() -> None:
    schedule = Schedule(optimizer(), table("plateau", plateau_patience=0, warmup_share=0.0), 10, 10)
    for loss, expected in ((1.0, 1.0), (0.9998, 1.0), (0.99975, 0.1)):
        schedule.after_epoch(loss)
        assert schedule.last_lr() == [pytest.approx(expected)]


def test_only_plateau_listens_to_the_validation_loss() -> None:
    for name in NAMES[:-1]:
        inner = optimizer(momentum=0.9)
        schedule = Schedule(inner, table(name), 100, 10)
        before = schedule.last_lr()
        for _ in range(5):
            schedule.after_epoch(1.0)
        schedule.after_epoch(None)
        assert schedule.last_lr() == before


def test_the_rates_are_those_that_torchs_own_scheduler_writes() -> None:
    recipe = table("cosine")
    ours, theirs = optimizer(0.3, 0.01), optimizer(0.3, 0.01)
    schedule = Schedule(ours, recipe, 40, 10)
    reference = LambdaLR(theirs, lambda step: factor(recipe, step, 40, 10))
    for _ in range(40):
        assert schedule.last_lr() == reference.get_last_lr()
        for inner, one in ((ours, schedule), (theirs, reference)):
            inner.step()
            one.step()


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_was_saved_goes_on_exactly(name: str) -> None:
    def run(schedule: Schedule, inner: torch.optim.Optimizer, epochs: range) -> list[Any]:
        found = []
        for epoch in epochs:
            found += rates(schedule, inner, 3)
            schedule.after_epoch(1.0 + epoch)
            found.append(inner.param_groups[0]["momentum"])
        return found

    recipe = table(name, lr=0.1, plateau_patience=1, step_epochs=2)
    inner = optimizer(0.1, momentum=0.9)
    whole = Schedule(inner, recipe, 30, 10)
    run(whole, inner, range(4))
    state = json.loads(json.dumps([whole.state_dict(), inner.state_dict()["param_groups"]]))
    expected = run(whole, inner, range(4, 10))
    fresh = optimizer(0.1, momentum=0.9)
    resumed = Schedule(fresh, recipe, 30, 10)
    fresh.load_state_dict({"state": {}, "param_groups": state[1]})
    resumed.load_state_dict(state[0])
    assert run(resumed, fresh, range(4, 10)) == expected
    assert resumed.applied() == whole.applied()


def test_what_was_applied_is_read_from_the_optimizer() -> None:
    inner = optimizer(0.5, 0.05)
    schedule = Schedule(inner, table("linear", warmup_share=0.2), 10, 10)
    rates(schedule, inner, 10)
    found = schedule.applied()
    assert found == {"steps": 10, "highest_factor": 1.0, "last_factor": pytest.approx(1 / 8)}
    lost = Schedule(inner := optimizer(0.5), table("linear", warmup_share=0.2), 10, 10)
    inner.param_groups[0]["lr"] = 0.1  # somebody writes another rate
    lost.step()
    assert lost.applied()["highest_factor"] == pytest.approx(0.2)


def test_auto_is_constant_for_short_text_runs_and_for_schedule_free() -> None:
    assert resolve(TrainTable(epochs=3), "text") == "constant"
    assert resolve(TrainTable(epochs=4), "text") == "cosine"
    assert resolve(TrainTable(epochs=3), "image") == "cosine"
    assert resolve(TrainTable(epochs=9, optimizer="schedulefree"), "image") == "constant"
    assert resolve(TrainTable(epochs=1, schedule="linear"), "text") == "linear"
    with pytest.raises(ValueError, match="'auto' is no schedule"):
        factor(TrainTable(), 0, 10, 5)


def test_the_warm_up_is_short_unless_the_rise_is_part_of_the_cycle() -> None:
    assert warmup_share(table("cosine")) == 0.05
    assert warmup_share(table("one-cycle")) == 0.3
    assert warmup_share(table("one-cycle", warmup_share=0.1)) == 0.1


def test_a_plateau_that_the_run_can_not_reach_is_refused() -> None:
    with pytest.raises(ValidationError, match="schedule 'plateau' falls first after 3 epochs, the run has 3"):
        TrainTable(schedule="plateau", plateau_patience=1, epochs=3)
    TrainTable(schedule="plateau", plateau_patience=1, epochs=4)
