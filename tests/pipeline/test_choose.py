"""Which variant ships."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.evaluate.statistics import Drop
from tlcompile.pipeline.choose import DEFAULT_MARGIN, Candidate, choose

SAME = Drop(1000, 0, 0, 0.05)
CLOSE = Drop(1000, 6, 2, 0.05)  # 0.4 points measured, 0.98 at most
WORSE = Drop(1000, 30, 2, 0.05)  # 2.8 points


def candidate(variant: str, drop: Drop = SAME, p50_ms: float | None = 1.0, size_mb: float = 10.0) -> Candidate:
    return Candidate(variant, drop, p50_ms, size_mb)


def test_the_fastest_ships() -> None:
    best, why = choose([candidate("fp32", p50_ms=2.0), candidate("int8", p50_ms=1.0)], None)
    assert best == 1
    assert why == ["dropped: does not pay, 2 ms against 1 ms", "ships: the fastest within the allowed accuracy drop"]


def test_a_technique_that_does_not_pay_is_dropped() -> None:
    best, why = choose([candidate("fp32", p50_ms=1.0), candidate("int8", p50_ms=1.5, size_mb=3)], None)
    assert best == 0
    assert why[1] == "dropped: does not pay, 1.5 ms against 1 ms"


def test_of_equals_the_first_ships() -> None:
    assert choose([candidate("fp32"), candidate("int8")], None)[0] == 0


def test_where_nothing_can_run_the_smallest_ships() -> None:
    found = [candidate("fp32", p50_ms=None, size_mb=10), candidate("int8", p50_ms=None, size_mb=3)]
    assert choose(found, None) == (
        1,
        ["dropped: does not pay, 10 MB against 3 MB", "ships: the smallest within the allowed accuracy drop"],
    )


def test_a_fast_one_that_lost_accuracy_is_dropped() -> None:
    best, why = choose([candidate("fp32", p50_ms=2.0), candidate("int8", WORSE, p50_ms=1.0)], None)
    assert best == 0
    assert why[1] == "dropped: its accuracy drop of 2.80 points is not shown to be within the margin"


@pytest.mark.parametrize(("margin", "best"), [(None, 1), (0.02, 1), (CLOSE.upper, 0), (0.005, 0)])
def test_a_margin_of_the_recipe_must_be_shown_and_the_default_one_measured(margin: float | None, best: int) -> None:
    assert CLOSE.drop < DEFAULT_MARGIN
    assert choose([candidate("fp32", p50_ms=2.0), candidate("int8", CLOSE, p50_ms=1.0)], margin)[0] == best


def test_one_that_answers_like_the_reference_is_within_any_margin() -> None:
    few = Drop(10, 0, 0, 0.05)
    assert few.upper > 0.2
    assert choose([candidate("fp32", few, p50_ms=2.0), candidate("int8", few, p50_ms=1.0)], 0.001)[0] == 1


def test_where_none_is_within_the_margin_the_most_accurate_ships() -> None:
    found = [candidate("fp32", CLOSE, p50_ms=2.0), candidate("int8", WORSE, p50_ms=1.0)]
    assert choose(found, 0.001) == (
        0,
        [
            "ships: the most accurate; none is within the allowed drop",
            "dropped: its accuracy drop of 2.80 points is not shown to be within the margin",
        ],
    )


DROPS = st.builds(lambda b, c: Drop(1000, b, c, 0.05), st.integers(0, 40), st.integers(0, 40))
CANDIDATES = st.lists(
    st.builds(Candidate, st.sampled_from(["fp32", "int8"]), DROPS, st.floats(0.1, 9), st.floats(0.1, 9)),
    min_size=1,
    max_size=4,
)


@given(CANDIDATES, st.none() | st.floats(0.001, 0.1))
def test_one_ships_each_gets_a_sentence_and_none_that_was_dropped_is_better_in_all(
    found: list[Candidate], margin: float | None
) -> None:
    best, why = choose(found, margin)
    assert [text.startswith("ships: ") for text in why] == [i == best for i in range(len(found))]
    assert all(text.startswith(("ships: ", "dropped: ")) for text in why)
    shipped = found[best]
    assert not [
        other
        for other in found
        if other.cost < shipped.cost and other.drop.upper < shipped.drop.upper and other.drop.drop < shipped.drop.drop
    ]
