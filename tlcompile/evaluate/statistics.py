"""Claims with their uncertainty. Pure numpy; every function is a function of counts or of 0/1 outcomes.

Two artifacts are compared on the same examples, pair by pair: only examples on which they differ carry information.
    b   examples that the reference gets right and the candidate gets wrong
    c   examples that the reference gets wrong and the candidate gets right
The accuracy drop is (b - c) / n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def bootstrap_interval(
    correct: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of 0/1 outcomes [n].

    A resample's count of hits is Binomial(n, mean), so it is drawn directly and no [resamples, n] array is made.
    """
    n, mean = len(correct), float(np.mean(correct))
    means = np.random.default_rng(seed).binomial(n, mean, resamples) / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(b: int, c: int) -> float:
    """Two-sided p-value of the exact McNemar test: under no difference b ~ Binomial(b + c, 1/2)."""
    total, least = b + c, min(b, c)
    tail: float = sum(math.comb(total, k) for k in range(least + 1)) / 2**total
    return min(1.0, 2 * tail)


def score(b: int, c: int, n: int, drop: float) -> float:
    """Tango's score statistic of the hypothesis that the true accuracy drop is `drop`; ~ N(0, 1) if it is.

    T. Tango, Statistics in Medicine 17 (1998) 891-908, section 3. `q` is the estimate of P(reference wrong, candidate
    right) under the hypothesis. Unlike a Wald interval it stays meaningful with b = c = 0.
    """
    linear = -b - c + (2 * n - b + c) * drop
    constant = -c * drop * (1 - drop)
    q = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * q + drop * (1 - drop))
    return (b - c - n * drop) / math.sqrt(variance) if variance > 0 else 0.0


def upper_limit(b: int, c: int, n: int, alpha: float) -> float:
    """One-sided (1 - alpha) upper confidence limit of the accuracy drop, by inverting `score`."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(1 - alpha)
    low, high = (b - c) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if score(b, c, n, middle) > -z:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class Drop:
    """The accuracy drop of a candidate against its reference on n shared examples; below 0 it is better."""

    n: int
    b: int
    c: int
    alpha: float

    @property
    def drop(self) -> float:
        return (self.b - self.c) / self.n

    @property
    def upper(self) -> float:
        """The drop is at most this, with confidence 1 - alpha. Non-inferior at a margin means `upper < margin`."""
        return upper_limit(self.b, self.c, self.n, self.alpha)

    @property
    def p_different(self) -> float:
        return mcnemar(self.b, self.c)


def paired_drop(reference_correct: np.ndarray, candidate_correct: np.ndarray, alpha: float) -> Drop:
    """Compare 0/1 outcomes [n] of two artifacts on the same examples."""
    b = int(np.sum(reference_correct & ~candidate_correct))
    c = int(np.sum(~reference_correct & candidate_correct))
    return Drop(len(reference_correct), b, c, alpha)
