"""When something slower ships because it is better."""

from __future__ import annotations

import numpy as np
import pytest

from tlcompile.evaluate.statistics import paired_drop
from tlcompile.pipeline.choose import Budget, Candidate, choose
from tlcompile.pipeline.contenders import kind_of, told

N = 1000
SINGLE = np.arange(N) >= 100  # 0.9


def right(corrected: int, corrupted: int = 0) -> np.ndarray:
    """SINGLE with as many examples more and fewer right."""
    found = SINGLE.copy()
    found[:corrected] = True
    found[N - corrupted :] = corrupted == 0
    return found


def candidate(variant: str, p50_ms: float | None, scores: np.ndarray = SINGLE, size_mb: float = 5.0) -> Candidate:
    return Candidate(variant, paired_drop(SINGLE, scores, 0.05), p50_ms, size_mb, kind_of(variant), scores)


def budget(most: float = 4.0, **changed: float) -> Budget:
    return Budget(SINGLE, slowdown=dict.fromkeys(("tta", "ensemble", "ensemble-tta"), most), **changed)


PLAIN = [candidate("fp32", 2.0), candidate("int8", 1.0)]


@pytest.mark.parametrize(
    ("variant", "kind"),
    [
        ("fp32", ""),
        ("pruned-int8", ""),
        ("tta-int8", "tta"),
        ("ensemble-fp32", "ensemble"),
        ("ensemble-tta-fp32", "ensemble-tta"),
        ("soup-int8", "soup"),
        ("student-fp32", "student"),
    ],
)
def test_the_kind_is_read_from_the_name(variant: str, kind: str) -> None:
    assert kind_of(variant) == kind


def test_one_that_is_shown_to_be_better_ships_although_it_is_slower() -> None:
    best, why = choose([*PLAIN, candidate("tta-int8", 2.5, right(20, 2))], None, budget())
    assert best == 2
    assert why[2].startswith("ships: better than the best single network by 1.80 points: 20 corrected, 2 corrupted")
    assert why[2].endswith("at 2.50 times the time of int8")
    assert why[1] == "dropped: tta-int8 is shown to be better within the budget"


def test_one_that_may_be_luck_is_dropped_with_its_p() -> None:
    best, why = choose([*PLAIN, candidate("tta-int8", 2.5, right(12, 6))], None, budget())
    assert best == 1
    assert why[1] == "ships: the fastest within the allowed accuracy drop"
    assert why[2].startswith("dropped: not shown to be better than the best single network: 12 corrected, 6 corrupted")


def test_the_risk_is_shared_by_all_contenders() -> None:
    alone = candidate("tta-int8", 2.5, right(16, 5))
    assert choose([*PLAIN, alone], None, budget())[0] == 2
    others = [candidate("soup-int8", 1.0), candidate("student-int8", 1.1)]
    assert choose([*PLAIN, alone, *others], None, budget())[0] == 1


def test_one_over_the_budget_is_dropped() -> None:
    found = [*PLAIN, candidate("tta-int8", 4.5, right(20))]
    assert choose(found, None, budget())[1][2] == "dropped: too slow, at 4.50 times the time of int8, 4 are allowed"
    best, why = choose(found, None, budget(9.0, max_p50_ms=4.0))
    assert (best, why[2]) == (1, "dropped: 4.5 ms, the gate allows 4 ms")


def test_a_slower_one_must_beat_the_faster_one_that_already_won() -> None:
    tta, ensemble = candidate("tta-int8", 2.0, right(20)), candidate("ensemble-int8", 3.0, right(22))
    best, why = choose([*PLAIN, tta, ensemble], None, budget())
    assert best == 2
    assert why[3].startswith("dropped: not shown to be better than tta-int8: 2 corrected")
    best, why = choose([*PLAIN, tta, candidate("ensemble-int8", 3.0, right(40))], None, budget())
    assert best == 3
    assert why[2] == "dropped: ensemble-int8 is shown to be better within the budget"


def test_of_one_kind_the_fastest_precision_within_the_margin_contends() -> None:
    found = [*PLAIN, candidate("tta-fp32", 3.0, right(20)), candidate("tta-int8", 2.0, right(18))]
    best, why = choose(found, None, budget())
    assert best == 3
    assert why[2] == "dropped: does not pay, 3 ms against 2 ms"
    lossy = candidate("tta-int8", 2.0, right(0, 30))
    assert choose([*PLAIN, found[2], lossy], None, budget())[0] == 2


def test_where_nothing_can_run_sizes_are_compared() -> None:
    found = [candidate("fp32", None, size_mb=5.0), candidate("ensemble-fp32", None, right(30), size_mb=15.0)]
    best, why = choose(found, None, budget())
    assert best == 1
    assert why[1].endswith("at 3.00 times the size of fp32")


def test_a_better_single_network_is_the_one_to_beat() -> None:
    rival = Budget(right(25), slowdown={"tta": 4.0})
    assert choose([*PLAIN, candidate("tta-int8", 2.0, right(30))], None, rival)[0] == 1


def test_what_was_kept_is_told_in_a_sentence() -> None:
    account = {"n": 100, "corrected": 5, "corrupted": 1, "p": 0.2}
    row = {"name": "vflip", "kept": False}
    choice = {"kept": ["identity", "hflip"], "before": 0.9, "after": 0.94, "account": account, "tried": [row]}
    [sentence] = told({"tta": choice})
    assert sentence == (
        "views: kept identity, hflip; 0.9000 before, 0.9400 with them out of fold on val (5 corrected, 1 corrupted of "
        "100); not shown to help: vflip"
    )


def test_a_target_of_nothing_else_ships_the_fastest_of_them() -> None:
    found = [candidate("tta-fp32", 3.0, right(20)), candidate("tta-int8", 2.0, right(18))]
    best, why = choose(found, None, budget())
    assert best == 1
    assert why[1] == "ships: the fastest within the allowed accuracy drop"
