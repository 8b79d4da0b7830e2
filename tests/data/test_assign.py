"""Facts about the drawing of splits and of calibration examples."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcompile.data._assign import assign, calibration

SHARES = {0: 0.7, 1: 0.2, 2: 0.1}
counts_of_classes = st.lists(st.integers(3, 80), min_size=2, max_size=6)


def shuffled_labels(counts: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@settings(max_examples=60, deadline=None)
@given(counts_of_classes, st.integers(0, 2**32 - 1), st.sampled_from([SHARES, {0: 0.7, 1: 0.2}, {0: 0.7, 2: 0.1}]))
def test_every_class_is_cut_by_the_shares_and_is_in_every_split(
    counts: list[int], seed: int, shares: dict[int, float]
) -> None:
    labels = shuffled_labels(counts, seed)
    targets = assign(labels, shares, len(counts), seed)
    assert set(np.unique(targets)) == set(shares)
    for label, count in enumerate(counts):
        found = np.bincount(targets[labels == label], minlength=3)
        for target, share in shares.items():
            assert found[target] >= 1
            assert abs(found[target] - count * share / sum(shares.values())) <= len(shares)


def test_a_class_of_three_has_one_in_each_split() -> None:
    assert sorted(assign(np.array([0, 0, 0, 1, 1, 1]), SHARES, 2, 0)[:3]) == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(counts_of_classes, st.integers(0, 2**32 - 2))
def test_the_seed_alone_decides(counts: list[int], seed: int) -> None:
    labels = shuffled_labels([*counts, 60], 0)
    first = assign(labels, SHARES, len(counts) + 1, seed)
    np.testing.assert_array_equal(first, assign(labels, SHARES, len(counts) + 1, seed))
    assert (first != assign(labels, SHARES, len(counts) + 1, seed + 1)).any()


def test_one_class_more_leaves_the_others_where_they_were() -> None:
    few = np.repeat([0, 1], 40)
    more = np.concatenate([few, np.full(40, 2)])
    np.testing.assert_array_equal(assign(few, SHARES, 2, 5), assign(more, SHARES, 3, 5)[:80])


@settings(max_examples=60, deadline=None)
@given(counts_of_classes, st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_calibration_examples_are_distinct_stratified_and_fixed_by_the_seed(
    counts: list[int], size: int, seed: int
) -> None:
    labels = shuffled_labels(counts, seed)
    chosen = calibration(labels, size, len(counts), seed)
    assert chosen == calibration(labels, size, len(counts), seed)
    assert len(set(chosen)) == len(chosen) == min(size, len(labels))
    for label, count in enumerate(counts):
        found = int((labels[chosen] == label).sum())
        assert abs(found - count * len(chosen) / len(labels)) <= len(counts)
        assert found >= (size >= len(counts))


def test_the_first_calibration_examples_are_a_mixture_of_classes() -> None:
    labels = np.repeat([0, 1], 500)
    start = labels[calibration(labels, 200, 2, 3)[:40]]
    assert 8 <= start.sum() <= 32
