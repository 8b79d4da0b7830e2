"""Which voices pay, with which weights, and how alike they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.artifacts import Labels
from tlcompile.evaluate import combine
from tlcompile.evaluate.combine import Way

SEEDS = st.integers(0, 2**32 - 1)
LABELS: tuple[Labels, ...] = ("class", "classes", "number")


def voices(labels: Labels, noise: tuple[float, ...], n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(logits [M, n, K], truth): voices that see the truth through noise of their own."""
    rng = np.random.default_rng(seed)
    truth: np.ndarray
    clean: np.ndarray
    if labels == "class":
        truth = rng.integers(0, 3, n)
        clean = 2.0 * np.eye(3)[truth]
    elif labels == "classes":
        truth = rng.integers(0, 2, (n, 3)).astype(np.float32)
        clean = 2.0 * (2 * truth - 1)
    else:
        truth = rng.normal(size=n)
        clean = truth[:, None]
    return np.stack([clean + s * rng.normal(size=clean.shape) for s in noise]), truth


def answer(labels: Labels) -> combine.Answer:
    def of(logits: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        assert weights is not None
        return np.asarray(np.tensordot(weights, combine.probabilities(logits, labels), 1))

    return of


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("way", ["probabilities", "logits"])
def test_the_better_voice_gets_the_larger_weight(labels: Labels, way: Way) -> None:
    logits, truth = voices(labels, (3.0, 1.0))
    weights = combine.fit(logits, truth, labels, way)
    assert weights is not None
    assert weights.sum() == pytest.approx(1)
    assert 0 <= weights[0] < 0.5 < weights[1]


@pytest.mark.parametrize("labels", LABELS)
def test_fitted_weights_are_no_worse_than_any_other(labels: Labels) -> None:
    logits, truth = voices(labels, (2.0, 1.0, 1.5))
    weights = combine.fit(logits, truth, labels, "probabilities")
    assert weights is not None

    def score(w: np.ndarray) -> float:
        return float(combine.log_scores(answer(labels)(logits, w), truth, labels).sum())

    others = np.random.default_rng(0).dirichlet([1, 1, 1], 200)
    assert all(score(weights) >= score(w) - 0.02 * len(truth) ** 0.5 for w in others)


@given(SEEDS, st.sampled_from(("class", "classes")), st.integers(1, 4))
def test_weights_of_classes_are_shares_of_each_class(seed: int, labels: Labels, count: int) -> None:
    logits, truth = voices(labels, (1.0,) * count, 40, seed)
    weights = combine.fit(logits, truth, labels, "learned")
    assert weights is not None
    assert weights.shape == (count, 3)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-9)


def test_a_class_on_which_a_voice_is_better_gives_it_more_weight() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 3000)
    first, second = (3.0 * np.eye(3)[truth] + rng.normal(size=(3000, 3)) for _ in range(2))
    for voice, hard in ((first, 0), (second, 2)):
        voice[truth == hard] += 4 * rng.normal(size=(int((truth == hard).sum()), 3))
    weights = combine.fit(np.stack([first, second]), truth, "class", "learned")
    assert weights is not None
    assert weights[0, 2] > weights[0, 0] + 0.1
    assert weights[1, 0] > weights[1, 2] + 0.1


def test_the_largest_takes_no_weights() -> None:
    logits, truth = voices("class", (1.0, 1.0))
    assert combine.fit(logits, truth, "class", "max") is None


def test_an_example_is_answered_with_weights_that_were_fitted_without_it() -> None:
    logits, truth = voices("class", (2.0, 1.0), 50)
    seen: list[int] = []

    def remember(part: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        seen.append(part.shape[1])
        assert weights is not None
        return answer("class")(part, weights)

    before = combine.out_of_fold(logits, truth, "class", "probabilities", remember)
    assert seen == [10] * combine.FOLDS
    changed = truth.copy()
    changed[7] = (truth[7] + 1) % 3
    after = combine.out_of_fold(logits, changed, "class", "probabilities", answer("class"))
    own = combine.folds(50) == combine.folds(50)[7]
    np.testing.assert_array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])


def test_examples_that_were_corrected_and_corrupted_are_counted() -> None:
    before, after = np.array([True, True, False, False, False]), np.array([True, False, True, True, False])
    found = combine.account(before, after)
    assert (found.corrected, found.corrupted, found.n) == (2, 1, 5)
    assert found.p == 1.0
    assert combine.account(np.zeros(12, bool), np.array([True] * 12)).p == pytest.approx(2 / 2**12)


def test_the_paired_test_sees_a_gain_and_rarely_one_that_is_not_there() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    assert combine.p_better(base, base + 0.1 + 0.3 * rng.normal(size=200)) < 0.01
    found = [combine.p_better(base, base + rng.normal(size=200), 400, seed=i) for i in range(200)]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.1
    assert combine.p_better(base, base) == 1.0


def test_rounding_is_no_gain_however_steady() -> None:
    base = np.random.default_rng(0).normal(size=200)
    assert combine.p_better(base, base + 1e-7) == 1.0
    assert combine.p_better(base, base + 1e-4) < 0.01


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(4000, 3))
    chances = combine.probabilities(logits, "class")
    truth = (rng.random((4000, 1)) > chances.cumsum(1)).sum(1).clip(0, 2)
    assert combine.temperature(scale * logits, truth, "class") == pytest.approx(scale, rel=0.1)
    assert combine.temperature(logits[:, :1], logits[:, 0], "number") == 1.0


def test_alike_voices_have_a_high_q_and_no_disagreement() -> None:
    a = np.array([True, True, False, False])
    assert (combine.disagreement(a, a), combine.q_statistic(a, a)) == (0.0, 1.0)
    assert combine.q_statistic(a, ~a) == -1.0
    assert combine.q_statistic(a, np.array([True, False, True, False])) == 0.0
    assert combine.q_statistic(np.ones(3, bool), np.ones(3, bool)) is None
    assert combine.diversity(np.stack([a, a, ~a]))["disagreement"] == pytest.approx(2 / 3)
    assert combine.diversity(a[None]) == {"disagreement": None, "q_statistic": None}


def test_probabilities_of_several_labels_do_not_overflow() -> None:
    found = combine.probabilities(np.array([[-800.0, 0.0, 800.0]]), "classes")
    np.testing.assert_allclose(found, [[0, 0.5, 1]])
