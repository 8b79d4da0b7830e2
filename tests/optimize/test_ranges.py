"""Ranges of activations: the streaming histogram is right, and each rule does what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcompile.optimize import _ranges
from tlcompile.optimize._ranges import Histogram


def gathered(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        for piece in np.array_split(np.asarray(part, np.float32), 1 + part.size // _ranges.SAMPLE):
            histogram.add(piece, shape=True)
    return histogram


def error(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of `values` in 255 steps from low to high."""
    step = (high - low) / 255
    rounded = np.rint((values - low) / step).clip(0, 255) * step + low
    return float(((np.where(values == 0, 0, rounded) - values) ** 2).mean())


HEAVY = np.concatenate([np.random.default_rng(0).normal(0, 1, 199_998), [-30.0, 30.0]])
"""Two of 200,000 values are far out."""
RULES = {
    "percentile": lambda h: _ranges.by_percentile(h, 99.0, False),
    "entropy": lambda h: _ranges.by_entropy(h, False),
    "mse": lambda h: _ranges.by_error(h, False),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 50)), min_size=1, max_size=6))
def test_a_histogram_that_grows_counts_every_value_in_its_bin(parts: list[tuple[float, int]]) -> None:
    values = [np.random.default_rng(i).normal(0, scale, n).astype(np.float32) for i, (scale, n) in enumerate(parts)]
    histogram, together = gathered(*values), np.concatenate(values)
    assert histogram.counts.sum() + histogram.zeros == together.size
    assert histogram.low == min(0.0, together.min(initial=0.0))
    assert histogram.high == max(0.0, together.max(initial=0.0))
    if histogram.counts.any():
        width = 2 * histogram.limit / _ranges.BINS
        mean = (histogram.counts * histogram.centres).sum() / histogram.counts.sum()
        assert abs(mean - together[together != 0].mean(dtype=np.float64)) <= width


@pytest.mark.parametrize("rule", RULES)
def test_a_heavy_tail_is_clipped_and_a_box_is_not(rule: str) -> None:
    low, high = RULES[rule](gathered(HEAVY))
    assert HEAVY.min() < 1.2 * low < 0 < 1.2 * high < HEAVY.max()
    box = np.random.default_rng(1).uniform(-1, 1, 20_000)
    low, high = RULES[rule](gathered(box))
    assert low == pytest.approx(-1, abs=0.05)
    assert high == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("values", [HEAVY, np.maximum(HEAVY, 0)])
def test_mse_finds_a_range_with_nearly_the_least_error(values: np.ndarray) -> None:
    histogram = gathered(values)
    found = error(values, *_ranges.by_error(histogram, False))
    shares = np.linspace(0.1, 1, 10)
    least = min(error(values, a * min(values.min(), 0), b * values.max()) for a in shares for b in shares)
    assert found <= 1.03 * least
    assert found < 0.9 * error(values, histogram.low, histogram.high)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("percentile", [90.0, 99.0, 100.0])
def test_a_percentile_holds_its_share_of_the_values(percentile: float, symmetric: bool) -> None:
    low, high = _ranges.by_percentile(gathered(HEAVY), percentile, symmetric)
    inside = ((low <= HEAVY) & (high >= HEAVY)).mean()
    assert inside == pytest.approx(percentile / 100, abs=2e-3)


def test_of_a_symmetric_range_both_ends_are_alike() -> None:
    low, high = _ranges.by_error(gathered(HEAVY), True)
    assert low == -high


def test_minmax_sees_every_value_and_other_rules_a_sample_of_large_tensors() -> None:
    values = np.zeros(3 * _ranges.SAMPLE + 7, np.float32)
    values[1] = 9
    assert _ranges.find([{"x": values}], "minmax", 99, False) == {"x": (0.0, 9.0)}
    histogram = Histogram()
    histogram.add(values, shape=True)
    assert histogram.high == 9
    assert histogram.zeros + histogram.counts.sum() < 2 * _ranges.SAMPLE


@pytest.mark.parametrize("rule", ["minmax", "percentile", "entropy", "mse"])
def test_a_tensor_that_is_always_zero_has_an_empty_range(rule: _ranges.Rule) -> None:
    assert _ranges.find([{"x": np.zeros((2, 3), np.float32)}], rule, 99, False) == {"x": (0.0, 0.0)}
