"""Release gates: they pass on evidence only."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.evaluate.gates import Measured, Verdict, judge
from tlcompile.evaluate.statistics import Drop
from tlcompile.recipe.tables import GatesTable

FOUND = Measured(accuracy=0.975, drop=Drop(1000, 6, 2, 0.05), p50_ms=2.0, p99_ms=5.0, size_mb=10.0, memory_mb=90.0)


def verdict(found: Measured = FOUND, **gates: float) -> Verdict:
    [only] = judge(GatesTable(**gates), found, "fast")
    return only


def test_no_gates_no_verdicts() -> None:
    assert judge(GatesTable(), FOUND, "fast") == []


def test_every_gate_that_is_set_gets_a_verdict_on_its_target() -> None:
    gates = {
        "min_accuracy": 0.9,
        "max_accuracy_drop": 0.1,
        "max_latency_p50_ms": 9,
        "max_latency_p99_ms": 9,
        "max_size_mb": 20,
        "max_memory_mb": 100,
    }
    verdicts = judge(GatesTable(**gates), FOUND, "fast")
    assert [(v.gate, v.limit) for v in verdicts] == list(gates.items())
    assert {v.target for v in verdicts} == {"fast"}
    assert all(v.passed and not v.deferred for v in verdicts)


def test_every_key_of_the_table_is_a_gate() -> None:
    verdicts = judge(GatesTable(**dict.fromkeys(GatesTable.model_fields, 1.0)), FOUND, "fast")
    assert {v.gate for v in verdicts} == set(GatesTable.model_fields)


@pytest.mark.parametrize(
    ("gate", "limit", "value", "why"),
    [
        ("min_accuracy", 0.975, 0.975, "accuracy 0.9750"),
        ("max_latency_p50_ms", 2.0, 2.0, "2 ms"),
        ("max_latency_p99_ms", 5.0, 5.0, "5 ms"),
        ("max_size_mb", 10.0, 10.0, "10 MB"),
        ("max_memory_mb", 90.0, 90.0, "90 MB"),
    ],
)
def test_a_value_at_its_limit_passes_and_one_beyond_fails(gate: str, limit: float, value: float, why: str) -> None:
    assert verdict(**{gate: limit}) == Verdict("fast", gate, limit, value, True, why)
    stricter = limit + 0.001 if gate == "min_accuracy" else limit - 0.001
    assert verdict(**{gate: stricter}) == Verdict("fast", gate, stricter, value, False, why)


def test_what_could_not_be_computed_fails() -> None:
    broken = replace(FOUND, accuracy=float("nan"), p99_ms=float("nan"))
    assert not verdict(broken, min_accuracy=0.0).passed
    assert not verdict(broken, max_latency_p99_ms=1e9).passed


@pytest.mark.parametrize("gate", ["max_latency_p50_ms", "max_latency_p99_ms", "max_memory_mb"])
def test_what_can_t_be_measured_here_is_deferred_to_the_device(gate: str) -> None:
    absent = replace(FOUND, p50_ms=None, p99_ms=None, memory_mb=None)
    why = "deferred: this engine can't run on this machine; to be shown on its device"
    assert verdict(absent, **{gate: 1.0}) == Verdict("fast", gate, 1.0, None, True, why, deferred=True)


def test_a_drop_that_is_shown_to_be_below_the_margin_passes() -> None:
    found = verdict(max_accuracy_drop=0.02)
    assert found.passed
    assert found.value == FOUND.drop.upper < 0.02
    assert found.why == (
        f"drop +0.40 points on 1000 examples (6 lost, 2 won), at most {100 * FOUND.drop.upper:.2f} with 95% confidence"
    )


def test_a_drop_below_the_margin_that_is_not_shown_to_be_is_undecided_and_fails() -> None:
    found = verdict(max_accuracy_drop=0.005)
    assert FOUND.drop.drop < 0.005 < FOUND.drop.upper
    assert not found.passed
    assert found.why.endswith("; undecided: too few test examples to show it, use more or a wider margin")


def test_a_drop_beyond_the_margin_fails_and_is_not_called_undecided() -> None:
    found = verdict(replace(FOUND, drop=Drop(1000, 60, 2, 0.05)), max_accuracy_drop=0.02)
    assert not found.passed
    assert "undecided" not in found.why


@given(st.integers(1, 500), st.integers(0, 100), st.integers(0, 100), st.floats(0.001, 1))
def test_the_drop_gate_passes_only_below_the_upper_limit(agree: int, b: int, c: int, margin: float) -> None:
    drop = Drop(agree + b + c, b, c, 0.05)
    found = verdict(replace(FOUND, drop=drop), max_accuracy_drop=margin)
    assert found.passed == (drop.upper < margin)
    assert not found.passed or drop.drop < margin


def test_a_verdict_is_json() -> None:
    told = json.loads(json.dumps(verdict(max_size_mb=20).to_json()))
    assert told == {
        "target": "fast",
        "gate": "max_size_mb",
        "limit": 20.0,
        "value": 10.0,
        "passed": True,
        "why": "10 MB",
        "deferred": False,
    }
