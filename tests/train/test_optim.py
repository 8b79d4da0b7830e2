"""Schedules have the values of their formula, and groups the parameters they should."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tlcompile.recipe.tables import TrainTable
from tlcompile.train import optim


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_cosine_rises_linearly_then_falls_to_zero(steps: int, warmup: float) -> None:
    table = TrainTable(warmup_share=warmup)
    values = [optim.factor(s, steps, table) for s in range(steps)]
    rising = round(warmup * steps)
    assert values[:rising] == [(i + 1) / rising for i in range(rising)]
    assert all(a >= b for a, b in zip(values[rising:], values[rising + 1 :], strict=False))
    assert all(0 < v <= 1 for v in values)
    if steps > rising:
        assert optim.factor(steps, steps, table) == pytest.approx(0, abs=1e-12)


def test_half_way_the_cosine_is_one_half() -> None:
    assert optim.factor(50, 100, TrainTable(warmup_share=0.0)) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_constant_stays_at_the_peak() -> None:
    assert {optim.factor(s, 10, TrainTable(schedule="constant", warmup_share=0.0)) for s in range(10)} == {1.0}


def test_biases_and_norms_are_not_decayed_and_the_head_has_its_own_rate() -> None:
    module = nn.ModuleDict({"body": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "head": nn.Linear(4, 2)})
    table = TrainTable(lr=1e-3, head_lr_scale=10, weight_decay=0.1)
    groups = {g["name"]: g for g in optim.groups(module, ("head",), table)}
    assert {n: (g["lr"], g["weight_decay"], len(g["params"])) for n, g in groups.items()} == {
        "body_decay": (1e-3, 0.1, 1),
        "body_no_decay": (1e-3, 0.0, 3),
        "head_decay": (1e-2, 0.1, 1),
        "head_no_decay": (1e-2, 0.0, 1),
    }
