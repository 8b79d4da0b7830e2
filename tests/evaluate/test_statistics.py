"""Claims with their uncertainty, held against scipy, closed forms and simulation."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from tlcompile.evaluate.statistics import (
    Drop,
    MeanDrop,
    bootstrap_interval,
    mcnemar,
    mean_drop,
    paired_drop,
    score,
    student,
    upper_limit,
)

ALPHAS = st.floats(0.001, 0.4)
COUNTS = st.integers(0, 200)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(b: int, c: int) -> None:
    assume(b + c > 0)
    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)


def test_mcnemar_of_no_difference_at_all_is_one_and_of_many_pairs_does_not_overflow() -> None:
    assert mcnemar(0, 0) == 1.0
    assert 0 <= mcnemar(1000, 3000) < 1e-200


@given(st.integers(1, 100_000), ALPHAS)
def test_with_no_discordant_pair_the_upper_limit_is_the_one_of_wilson(n: int, alpha: float) -> None:
    z = NormalDist().inv_cdf(1 - alpha)
    assert upper_limit(0, 0, n, alpha) == pytest.approx(z**2 / (n + z**2), rel=1e-6)


@given(COUNTS, COUNTS, st.integers(401, 5000), ALPHAS)
def test_the_upper_limit_grows_with_what_is_lost_and_shrinks_with_what_is_won(
    b: int, c: int, n: int, alpha: float
) -> None:
    limit = upper_limit(b, c, n, alpha)
    assert upper_limit(b + 1, c, n, alpha) > limit
    assert upper_limit(b, c + 1, n, alpha) < limit


@given(COUNTS, COUNTS, st.integers(400, 5000), ALPHAS)
def test_the_upper_limit_is_above_the_drop_and_tighter_with_more_risk(b: int, c: int, n: int, alpha: float) -> None:
    limit = upper_limit(b, c, n, alpha)
    assert (b - c) / n < limit <= 1
    assert upper_limit(b, c, n, alpha / 2) > limit


@given(COUNTS, COUNTS, st.integers(400, 5000), ALPHAS)
def test_at_the_upper_limit_the_score_is_the_quantile(b: int, c: int, n: int, alpha: float) -> None:
    z = NormalDist().inv_cdf(1 - alpha)
    assert score(b, c, n, upper_limit(b, c, n, alpha)) == pytest.approx(-z, abs=1e-6)


@given(st.integers(1, 50))
def test_an_artifact_that_loses_everything_has_a_limit_of_one(n: int) -> None:
    assert upper_limit(n, 0, n, 0.05) == pytest.approx(1)


@pytest.mark.parametrize(
    ("n", "margin", "won"), [(200, 0.05, 0.02), (500, 0.02, 0.01), (1000, 0.01, 0.005), (1000, 0.02, 0.05)]
)
def test_an_artifact_exactly_at_the_margin_passes_hardly_more_often_than_the_risk_taken(
    n: int, margin: float, won: float
) -> None:
    lost = won + margin
    draws = np.random.default_rng(0).multinomial(n, [lost, won, 1 - lost - won], size=2000)
    passed = np.mean([Drop(n, int(b), int(c), 0.05).upper < margin for b, c, _ in draws])
    assert 0.02 <= passed <= 0.06


def test_an_artifact_without_a_drop_is_shown_to_be_within_the_margin_by_enough_examples() -> None:
    draws = np.random.default_rng(0).multinomial(3000, [0.01, 0.01, 0.98], size=200)
    assert np.mean([Drop(3000, int(b), int(c), 0.05).upper < 0.01 for b, c, _ in draws]) > 0.9


@pytest.mark.parametrize(("n", "accuracy"), [(100, 0.7), (300, 0.9), (2000, 0.97)])
def test_the_bootstrap_interval_covers_the_true_accuracy_as_often_as_it_says(n: int, accuracy: float) -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.random(n) < accuracy, resamples=1000, seed=i) for i in range(400)]
    covered = np.mean([low <= accuracy <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.98


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.floats(0.5, 0.98))
def test_the_bootstrap_interval_holds_the_mean_and_widens_with_its_level(outcomes: list[bool], level: float) -> None:
    correct = np.array(outcomes)
    low, high = bootstrap_interval(correct, level)
    assert 0 <= low <= correct.mean() <= high <= 1
    wider = bootstrap_interval(correct, 0.99)
    assert wider[0] <= low
    assert wider[1] >= high


def test_the_bootstrap_interval_is_the_same_each_time() -> None:
    correct = np.arange(50) % 7 > 0
    assert bootstrap_interval(correct) == bootstrap_interval(correct)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_pairs_are_counted_by_who_is_right(pairs: list[tuple[bool, bool]]) -> None:
    reference, candidate = np.array(pairs).T
    found = paired_drop(reference, candidate, 0.05)
    assert (found.n, found.b, found.c) == (len(pairs), pairs.count((True, False)), pairs.count((False, True)))
    assert found.drop == pytest.approx(reference.mean() - candidate.mean())
    assert found.p_different == mcnemar(found.b, found.c)
    assert found.upper == upper_limit(found.b, found.c, found.n, 0.05)


def lost_labels(rng: np.random.Generator, n: int, margin: float) -> np.ndarray:
    """Differences of shares of 5 labels: each lost a little more often than won."""
    return (rng.binomial(5, margin + 0.01, n) - rng.binomial(5, 0.01, n)) / 5


def lost_examples(rng: np.random.Generator, n: int, margin: float) -> np.ndarray:
    """Few examples lose all their labels: the most skewed that shares can be."""
    return (rng.random(n) < margin + 0.002).astype(float) - (rng.random(n) < 0.002)


def squared_errors(rng: np.random.Generator, n: int, margin: float) -> np.ndarray:
    """Differences of squared errors, heavy-tailed: a reference of R² 0.8, a candidate with further errors."""
    e, more = rng.standard_t(5, (2, n)) * np.sqrt(3 / 5)
    e, more = e * np.sqrt(0.2), more * np.sqrt(margin)
    return (e + more) ** 2 - e**2


@pytest.mark.parametrize("world", [lost_labels, lost_examples, squared_errors])
@pytest.mark.parametrize(("n", "margin"), [(100, 0.05), (200, 0.02), (1000, 0.01)])
def test_scores_exactly_at_the_margin_pass_hardly_more_often_than_the_risk_taken(
    world: Callable[..., np.ndarray], n: int, margin: float
) -> None:
    rng = np.random.default_rng(0)
    passed = np.mean([mean_drop(world(rng, n, margin), np.zeros(n), 0.05).upper < margin for _ in range(2000)])
    assert passed <= 0.06


@pytest.mark.parametrize("world", [lost_labels, lost_examples, squared_errors])
def test_scores_without_a_drop_are_shown_to_be_within_the_margin_by_enough_examples(
    world: Callable[..., np.ndarray],
) -> None:
    rng = np.random.default_rng(0)
    pairs = [(world(rng, 3000, 0.005), world(rng, 3000, 0.005)) for _ in range(200)]
    assert np.mean([mean_drop(one, other, 0.05).upper < 0.02 for one, other in pairs]) > 0.9


def test_scores_that_never_differ_are_not_shown_to_be_equal_by_few_examples() -> None:
    few, many = (mean_drop(np.ones(n), np.ones(n), 0.05) for n in (20, 2000))
    assert few.b == few.c == few.drop == 0
    assert few.upper > 0.05
    assert many.upper < 0.002
    assert few.p_different == many.p_different == 1


@pytest.mark.parametrize("n", [100, 1000])
def test_equal_scores_are_called_different_hardly_more_often_than_the_risk_taken(n: int) -> None:
    rng = np.random.default_rng(0)
    draws = [squared_errors(rng, n, 0.02) - squared_errors(rng, n, 0.02) for _ in range(2000)]
    assert np.mean([mean_drop(d, np.zeros(n), 0.05).p_different < 0.05 for d in draws]) <= 0.06


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=60), st.floats(0.01, 0.3))
def test_the_limit_of_a_mean_drop_is_above_it_and_tighter_with_more_risk(values: list[float], alpha: float) -> None:
    scores = np.array(values)
    found = mean_drop(scores, np.zeros(len(scores)), alpha)
    assert found.drop == pytest.approx(scores.mean())
    assert found.upper > found.mean
    assert mean_drop(scores, np.zeros(len(scores)), alpha / 2).upper > found.upper
    assert (found.b, found.c) == (int((scores > 1e-3).sum()), int((scores < -1e-3).sum()))


@pytest.mark.parametrize(("p", "freedom"), [(0.95, 5), (0.95, 30), (0.99, 10), (0.995, 200)])
def test_quantiles_of_student_are_near_scipy_s(p: float, freedom: int) -> None:
    assert student(p, freedom) == pytest.approx(t.ppf(p, freedom), rel=0.02)


def test_scores_and_outcomes_take_their_own_test() -> None:
    outcomes = np.array([True, False, True])
    assert isinstance(paired_drop(outcomes, outcomes, 0.05), Drop)
    assert isinstance(paired_drop(outcomes.astype(float), outcomes.astype(float), 0.05), MeanDrop)


@pytest.mark.parametrize("n", [100, 1000])
def test_the_bootstrap_interval_of_scores_covers_their_mean_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.exponential(size=n), resamples=300, seed=i) for i in range(200)]
    assert 0.9 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.99
