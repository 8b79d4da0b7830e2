"""The range of an activation: from its least to its largest value, or a narrower one that clips outliers.

A narrower range gives the many small values finer steps and clips the few large ones. Which pays depends on the
network; the four rules here are judged on the same histograms, gathered in one run over the examples.

    minmax       from the least to the largest value seen
    percentile   holds a given share of the values
    entropy      least Kullback-Leibler divergence of the quantized from the clipped distribution (S. Migacz, "8-bit
                 Inference with TensorRT", GTC 2017)
    mse          least mean squared error of the quantized values
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tlcompile.artifacts import Feed

Rule = Literal["minmax", "percentile", "entropy", "mse"]
Ranges = dict[str, tuple[float, float]]
BINS = 4096
SAMPLE = 2**16  # values of one tensor and example that go into a histogram; least and largest count them all
_STEPS = 64  # candidates of one end of a range


@dataclass
class Histogram:
    """Values between -limit and limit in equal bins; `limit` doubles as larger ones come, so one run is enough.

    Zeros are counted aside: a quantizer keeps them exactly, and a ReLU makes many.
    """

    low: float = 0.0
    high: float = 0.0
    zeros: int = 0
    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: np.ndarray, shape: bool) -> None:
        """Take `values`, finite. `shape`: their distribution too, not only the ends."""
        if not values.size:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if not shape:
            return
        flat = values.reshape(-1)
        flat = flat[:: max(1, flat.size // SAMPLE) | 1]  # odd: not always the same column
        self.zeros += int((flat == 0).sum())
        flat = flat[flat != 0]
        peak = max(-self.low, self.high)
        self.limit = self.limit or peak * 1.001
        while self.limit < peak:
            self._widen()
        if flat.size:
            index = ((flat + self.limit) * (BINS / (2 * self.limit))).astype(np.int64).clip(0, BINS - 1)
            self.counts += np.bincount(index, minlength=BINS)

    def _widen(self) -> None:
        pairs = self.counts.reshape(-1, 2).sum(1)
        self.counts = np.pad(pairs, BINS // 4)
        self.limit *= 2

    @property
    def centres(self) -> np.ndarray:
        return (np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit


def find(tensors: Iterable[Feed], rule: Rule, percentile: float, symmetric: bool) -> Ranges:
    """Name -> (low, high) by `rule`, of what `observe` gives. `symmetric`: the quantizer will make high = -low."""
    seen: dict[str, Histogram] = {}
    for values in tensors:
        for name, value in values.items():
            seen.setdefault(name, Histogram()).add(value, rule != "minmax")
    rules: dict[Rule, Callable[[Histogram], tuple[float, float]]] = {
        "minmax": lambda h: (h.low, h.high),
        "percentile": lambda h: by_percentile(h, percentile, symmetric),
        "entropy": lambda h: by_entropy(h, symmetric),
        "mse": lambda h: by_error(h, symmetric),
    }
    return {name: rules[rule](h) if h.counts.any() else (h.low, h.high) for name, h in seen.items()}


def by_percentile(h: Histogram, percentile: float, symmetric: bool) -> tuple[float, float]:
    """The range that holds `percentile` % of the values; the rest is cut in equal shares from both ends."""
    counts = h.counts.copy()
    counts[BINS // 2] += h.zeros
    cut = (1 - percentile / 100) * counts.sum()
    width = 2 * h.limit / BINS
    if symmetric:
        beyond = np.cumsum(_folded(counts)[::-1])[::-1]
        edge = float(np.flatnonzero(beyond > cut)[-1] + 1) * width
        return max(h.low, -edge), min(h.high, edge)
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    low = float(np.searchsorted(below, cut / 2, side="right")) * width - h.limit
    high = h.limit - float(np.searchsorted(above, cut / 2, side="right")) * width
    return max(h.low, min(low, 0.0)), min(h.high, max(high, 0.0))


def _folded(counts: np.ndarray) -> np.ndarray:
    """Counts of absolute values, [BINS // 2]."""
    folded: np.ndarray = counts[BINS // 2 :] + counts[: BINS // 2][::-1]
    return folded


def by_error(h: Histogram, symmetric: bool) -> tuple[float, float]:
    """The range of least mean squared error, among `_STEPS` shrunken ends on each side.

    Error of a value within the range: step² / 12 (a uniform rounding error); beyond it: its distance, squared.
    """
    shares = np.arange(1, _STEPS + 1) / _STEPS
    lows, highs = shares * h.low, shares * h.high
    if symmetric:
        lows, highs = -shares * max(-h.low, h.high), shares * max(-h.low, h.high)
    centres, counts = h.centres, h.counts
    over = np.array([(counts * np.maximum(centres - e, 0) ** 2).sum() for e in highs])
    under = np.array([(counts * np.maximum(e - centres, 0) ** 2).sum() for e in lows])
    inside = counts.sum() / 12
    if symmetric:
        best = int((over + under + inside * ((highs - lows) / 254) ** 2).argmin())
        return float(lows[best]), float(highs[best])
    rounding = inside * ((highs[None] - lows[:, None]) / 255) ** 2
    i, j = np.unravel_index((under[:, None] + over[None] + rounding).argmin(), rounding.shape)
    return float(lows[i]), float(highs[j])


def by_entropy(h: Histogram, symmetric: bool) -> tuple[float, float]:
    """The threshold on absolute values of least divergence; 255 levels on one side where no value is negative."""
    levels = 255 if h.low >= 0 and not symmetric else 128
    counts = _folded(h.counts).astype(np.float64)
    used = int(np.flatnonzero(counts)[-1]) + 1
    ends = range(levels, used, max(1, used // 128))
    best = min([*ends, used], key=lambda end: _divergence(counts, end, levels))
    edge = best * 2 * h.limit / BINS
    return max(h.low, -edge), min(h.high, edge)


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(P ‖ Q): P the first `end` bins with all others put in the last, Q the same bins in `levels` groups."""
    kept = counts[:end]
    p = kept.copy()
    p[-1] += counts[end:].sum()
    starts = np.arange(levels) * end // levels
    filled = np.add.reduceat(kept, starts) / np.maximum(np.add.reduceat((kept > 0).astype(float), starts), 1)
    q = np.repeat(filled, np.diff([*starts, end])) * (kept > 0)
    there = p > 0
    p, q = p[there] / p.sum(), np.maximum(q[there] / max(q.sum(), 1e-12), 1e-12)
    return float((p * np.log(p / q)).sum())
