"""From which confidence on the first voice may answer alone, and what the report says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tlcompile.evaluate.statistics import paired_drop
from tlcompile.parity import engine_limit
from tlcompile.pipeline import exits
from tlcompile.pipeline.choose import Candidate
from tlcompile.pipeline.contenders import early_exits, kind_of, leaves_early, told
from tlcompile.pipeline.pays import Held


def held(n: int = 1000, careless: bool = False) -> Held:
    """A second voice that is always right; the first is right where it is sure, or, careless, as often everywhere."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, n)
    sure = np.where(np.arange(n) % 2, 4.0, 0.5) + rng.random(n)
    wrong = rng.random(n) < 0.4 if careless else (sure < 2) & (rng.random(n) < 0.5)
    said = np.where(wrong, 1 - truth, truth)
    first = sure[:, None] * np.eye(2)[said]
    return Held(("first", "second"), np.stack([first, 12 * np.eye(2)[truth]]), truth, "class", equal=True)


def test_all_leave_whose_answers_are_shown_to_be_as_good() -> None:
    found = exits.choose(held(), [0, 1], 0.01, 0.05)
    assert 0.45 <= found["left"] <= 0.55
    assert found["threshold"] > 0.8


def test_where_the_first_is_no_better_when_it_is_sure_none_leave() -> None:
    found = exits.choose(held(careless=True), [0, 1], 0.01, 0.05)
    assert (found["threshold"], found["left"]) == (None, 0.0)
    assert "all answer always" in told({"tta": {**choice(), "exit": found}})[-1]


def test_a_wider_margin_lets_more_leave() -> None:
    strict, wide = (exits.choose(held(), [0, 1], margin, 0.05)["left"] for margin in (0.01, 0.1))
    assert strict < wide < 1


def test_few_examples_that_disagree_show_nothing() -> None:
    found = exits.choose(held(40), [0, 1], 0.01, 0.05)
    row = next(point for point in found["curve"] if point["threshold"] == found["threshold"])
    assert row["score"] == found["curve"][0]["score"]


def test_the_curve_goes_from_all_to_the_first_alone() -> None:
    voices = held()
    curve = exits.choose(voices, [0, 1], 0.01, 0.05)["curve"]
    assert (curve[0]["left"], curve[-1]["left"]) == (0.0, 1.0)
    assert curve[0]["score"] == 1.0
    assert curve[-1]["score"] == pytest.approx(voices.scores(voices.answers([0])).mean())
    assert [point["left"] for point in curve] == sorted(point["left"] for point in curve)
    assert len(curve) > 15


@pytest.mark.parametrize("values", [[0.5] * 9, [0.9, 0.9, 0.6, 0.6, 0.6], [1.0, 1.0, 1.0]])
def test_a_threshold_parts_no_equal_confidences(values: list[float]) -> None:
    sure = np.array(values)
    found = exits.thresholds(sure)
    assert len(found) == len(set(values))
    assert found == sorted(found, reverse=True)
    assert all(np.abs(sure - threshold).min() > 9e-7 for threshold in found)


def choice() -> dict[str, object]:
    account = {"n": 100, "corrected": 5, "corrupted": 1, "p": 0.2}
    return {"kept": ["identity", "hflip"], "before": 0.9, "after": 0.94, "account": account, "tried": []}


def test_the_report_has_times_of_the_first_alone_and_of_all_on_the_same_examples() -> None:
    curve = [{"threshold": None, "left": 0.0, "score": 0.94}, {"threshold": 0.8, "left": 0.5, "score": 0.94}]
    leave = {"threshold": 0.8, "left": 0.5, "margin": 0.01, "curve": curve}
    rows = [
        {
            "target": "cpu",
            "variant": variant,
            "engine": f"compile/cpu/{variant}",
            "accuracy": 0.9,
            "latency": {"batch_1": {"examples_mean_ms": ms, "p99_ms": 9.0, "examples": 50}},
        }
        for variant, ms in (("fp32", 1.0), ("tta-fp32", 3.0), ("tta-exit-fp32", 2.2))
    ]
    [found] = early_exits(rows, {"tta": {**choice(), "exit": leave}})
    assert [point["mean_ms"] for point in found["curve"]] == [3.0, 2.0]
    assert (found["engine"], found["mean_ms"], found["examples"]) == ("compile/cpu/tta-exit-fp32", 2.2, 50)
    [without] = early_exits(rows[1:], {"tta": {**choice(), "exit": leave}})
    assert [point["mean_ms"] for point in without["curve"]] == [None, None]


@pytest.mark.parametrize(("variant", "kind"), [("tta-exit-int8", "tta-exit"), ("ensemble-exit-fp32", "ensemble-exit")])
def test_an_early_exit_is_a_kind_of_its_own(variant: str, kind: str) -> None:
    assert kind_of(variant) == kind
    assert leaves_early(variant)
    assert not leaves_early(variant.replace("-exit", ""))


def test_an_engine_whose_time_depends_on_the_example_is_compared_by_its_mean() -> None:
    drop = paired_drop(np.ones(9, bool), np.ones(9, bool), 0.05)
    fixed, varies = (Candidate(variant, drop, 2.0, 1.0) for variant in ("tta-fp32", "tta-exit-fp32"))
    assert (fixed.cost, replace(varies, mean_ms=1.2).cost) == (2.0, 1.2)
    assert replace(varies, mean_ms=1.2).shown_cost == "1.2 ms"


def test_an_engine_may_be_off_by_what_the_border_of_an_exit_moves() -> None:
    before = {"logits": 0.04, "sway": {"max_abs": 0.3, "logits": 0.1}}
    assert engine_limit(before, "fp32", {}) == pytest.approx(0.1 + engine_limit({}, "fp32", {}))
    assert engine_limit(before, "int8", {}) == pytest.approx(0.1 + 1.25 * 0.04)
