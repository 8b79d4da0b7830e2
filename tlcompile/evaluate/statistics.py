"""Claims with their uncertainty. Pure numpy; every function is a function of counts, of 0/1 outcomes or of scores.

Two artifacts are compared on the same examples, pair by pair: only examples on which they differ carry information.
    b   examples that the reference gets right and the candidate gets wrong
    c   examples that the reference gets wrong and the candidate gets right
The accuracy drop is (b - c) / n.

Where an example's score is a real number (the share of its labels that are right; 1 - squared error / variance) the
drop is the mean of the paired differences, see `MeanDrop`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def bootstrap_interval(
    correct: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of 0/1 outcomes [n], bool, or of scores [n], float.

    A resample's count of hits is Binomial(n, mean), so it is drawn directly and no [resamples, n] array is made.
    """
    rng, n, mean = np.random.default_rng(seed), len(correct), float(np.mean(correct))
    if correct.dtype == bool:
        means = rng.binomial(n, mean, resamples) / n
    else:
        means = np.array([correct[rng.integers(0, n, n)].mean() for _ in range(resamples)])
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


@dataclass(frozen=True)
class MeanDrop:
    """The drop of the mean score of a candidate against its reference on n shared examples; below 0 it is better.

    `b` and `c` count the examples whose score fell or rose by more than `_EQUAL`. `mean`, `std` (of a sample) and
    `skew` are those of the differences reference - candidate, to which one pair of +1 and -1 was added: where nearly
    all examples score the same, a sample can't show that no other one would be lost (A. Agresti and Y. Min, Statistics
    in Medicine 24, 2005, add such pairs to 0/1 outcomes). Without it two artifacts that never differ in a sample would
    be shown equal by two examples.
    """

    n: int
    b: int
    c: int
    alpha: float
    drop: float
    mean: float
    std: float
    skew: float

    @property
    def upper(self) -> float:
        """The drop is at most this, with confidence 1 - alpha."""
        return self.mean - self.std * _hall(-student(1 - self.alpha, self.n + 1), self.n + 2, self.skew)

    @property
    def p_different(self) -> float:
        """Two-sided p-value of no difference: the alpha at which a two-sided interval just holds 0."""
        from statistics import NormalDist

        root, t = math.sqrt(self.n + 2), self.mean / self.std
        g = t + self.skew * t**2 / 3 + self.skew**2 * t**3 / 27 + self.skew / (6 * (self.n + 2))
        return 2 * (1 - NormalDist().cdf(abs(root * g)))


_EQUAL = 1e-3
"""A change of an example's score that is not counted as lost or won; the drop itself takes every change."""


def student(p: float, freedom: int) -> float:
    """Quantile of Student's t to about 1 % from 5 degrees of freedom on (Abramowitz and Stegun 26.7.5, three terms)."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(p)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def _hall(quantile: float, n: int, skew: float) -> float:
    """(mean of a sample - true mean) / its std at `quantile`, when the n differences have this skewness.

    Scores of lost examples are rarely symmetric, and a plain t-interval then passes too often. P. Hall, "On the
    Removal of Skewness by Transformation", J. R. Statist. Soc. B 54 (1992) 221-228: with T = (mean - true mean)/std,
    g(T) = T + skew T²/3 + skew² T³/27 + skew/(6n) is near normal with variance 1/n, and has an inverse.
    """
    u = quantile / math.sqrt(n)
    if abs(skew) < 1e-6:
        return u
    inside = 1 + skew * (u - skew / (6 * n))
    return 3 / skew * (math.copysign(abs(inside) ** (1 / 3), inside) - 1)


def mean_drop(reference: np.ndarray, candidate: np.ndarray, alpha: float) -> MeanDrop:
    """Compare scores float [n] of two artifacts on the same examples."""
    differences = np.asarray(reference, np.float64) - candidate
    padded = np.concatenate([differences, [1.0, -1.0]])
    mean, std = float(padded.mean()), float(padded.std(ddof=1))
    skew = float(((padded - mean) ** 3).mean()) / float(padded.std()) ** 3
    lost, won = int((differences > _EQUAL).sum()), int((differences < -_EQUAL).sum())
    return MeanDrop(len(differences), lost, won, alpha, float(differences.mean()), mean, std, skew)


def paired_drop(reference_correct: np.ndarray, candidate_correct: np.ndarray, alpha: float) -> Drop | MeanDrop:
    """Compare 0/1 outcomes bool [n], or scores float [n], of two artifacts on the same examples."""
    if reference_correct.dtype != bool:
        return mean_drop(reference_correct, candidate_correct, alpha)
    b = int(np.sum(reference_correct & ~candidate_correct))
    c = int(np.sum(~reference_correct & candidate_correct))
    return Drop(len(reference_correct), b, c, alpha)
