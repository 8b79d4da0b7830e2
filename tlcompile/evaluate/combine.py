"""Several answers to the same example as one: with which weights, what it gains, how alike they are. numpy only.

A *voice* is a view of the example or a member of an ensemble. Its logits are float [N, K]; those of all voices
[M, N, K]. `truth` is that of `Split.labels`: int64 [N] classes, float [N, K] 1 where a class is given, float [N]
numbers in standard deviations.

Whatever is fitted here is judged on examples that it was not fitted on (`out_of_fold`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tlcompile.artifacts import Labels
from tlcompile.evaluate.statistics import mcnemar

Way = Literal["probabilities", "logits", "max", "learned"]
Answer = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""(logits of some voices [M, N, K], their weights) -> the one answer float64 [N, K]."""

FOLDS = 5
ALPHA = 0.05
_LEAST = 1e-12  # a probability below this counts as this
_ROUNDING = 1e-6  # scores closer than this are equal: logits come as float32, weights are fitted to about as much


@dataclass(frozen=True)
class Account:
    """What became of the examples: wrong before and right now (`corrected`), right before and wrong now."""

    n: int
    corrected: int
    corrupted: int

    @property
    def p(self) -> float:
        """Two-sided exact McNemar."""
        return mcnemar(self.corrupted, self.corrected)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "p": self.p}


def account(before: np.ndarray, after: np.ndarray) -> Account:
    """Of scores [N], bool or float, of the same examples; a float score counts where it rose or fell."""
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return Account(len(before), int((after > before).sum()), int((after < before).sum()))


def log_scores(answers: np.ndarray, truth: np.ndarray, labels: Labels) -> np.ndarray:
    """How good each answer is, float64 [N], higher is better: the log of what the truth was given.

    Of several labels the mean over them; of a number minus its squared error. These differ on every example, so a
    paired test of them sees a gain that a count of right answers is too coarse for.
    """
    answers = np.asarray(answers, np.float64)
    if labels == "class":
        return np.asarray(np.log(np.maximum(answers[np.arange(len(truth)), truth], _LEAST)))
    if labels == "classes":
        given = np.where(truth > 0.5, answers, 1 - answers)
        return np.asarray(np.log(np.maximum(given, _LEAST)).mean(-1))
    return np.asarray(-((answers[:, 0] - truth) ** 2))


def p_better(before: np.ndarray, after: np.ndarray, flips: int = 2000, seed: int = 0) -> float:
    """One-sided p-value of `after` being no better than `before`, scores [N] of the same examples.

    The sign-flip test: were both equally good, each difference could as well have the other sign (R. A. Fisher, "The
    Design of Experiments", 1935, section 21). One more flip that reaches the observed sum keeps it valid. Rounding
    counts as no difference: a voice beside its own copy could else be "better", by 1e-17 on enough of the examples.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    differences = np.where(np.isclose(after, before, _ROUNDING, _ROUNDING), 0.0, after - before)
    observed, rng, reached = float(differences.sum()), np.random.default_rng(seed), 0
    if not differences.any():
        return 1.0
    for start in range(0, flips, 100):
        signs = rng.integers(0, 2, (min(100, flips - start), len(differences)), dtype=np.int8)
        sums = 2 * (signs @ differences) - observed
        reached += int((sums >= observed * (1 - 1e-12)).sum())
    return (reached + 1) / (flips + 1)


def fit(logits: np.ndarray, truth: np.ndarray, labels: Labels, way: Way) -> np.ndarray | None:
    """Weights that are at least 0 and sum to 1: float64 [M], of 'learned' [M, K], none of 'max'."""
    if way == "max":
        return None
    if labels == "number" or way == "logits":
        return _of_logits(np.asarray(logits, np.float64), truth, labels)
    answers = probabilities(logits, labels)
    chances = np.stack([np.exp(log_scores(a, truth, "class")) for a in answers]) if labels == "class" else None
    shared = mixture(chances if chances is not None else _of_each(answers, truth))
    return shared if way == "probabilities" else _of_classes(answers, truth, shared)


def probabilities(logits: np.ndarray, labels: Labels) -> np.ndarray:
    """Softmax over the last axis, or the sigmoid, in float64; numbers stay as they are."""
    logits = np.asarray(logits, np.float64)
    if labels == "number":
        return logits
    if labels == "classes":
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)))
    grown = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(grown / grown.sum(-1, keepdims=True))


def mixture(chances: np.ndarray, rounds: int = 200, first: np.ndarray | None = None) -> np.ndarray:
    """The weights [M] of the most likely mixture, where voice m gave the truth of case i the chance `chances[m, i]`.

    Expectation maximisation (A. Dempster et al., J. R. Statist. Soc. B 39, 1977, section 4.3): the likelihood rises
    with each round and has one maximum.
    """
    chances = np.maximum(chances, _LEAST)
    weights = np.full(len(chances), 1 / len(chances)) if first is None else first
    for _ in range(rounds):
        shares = weights[:, None] * chances
        weights = (shares / shares.sum(0)).mean(1)
    return np.asarray(weights / weights.sum())


def _of_each(answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Chance of each label's truth, [M, N * K]."""
    return np.asarray(np.where(truth > 0.5, answers, 1 - answers).reshape(len(answers), -1))


def _of_classes(answers: np.ndarray, truth: np.ndarray, shared: np.ndarray, prior: float = 50.0) -> np.ndarray:
    """[M, K]: a mixture for each class against the rest, drawn to `shared` as if by `prior` more examples of the class.

    Weights by class are those of D. Shanmugam et al., "Better Aggregation in Test-Time Augmentation", ICCV 2021,
    section 4; the prior keeps rare classes from weights made of a handful of examples.
    """
    flags = truth > 0.5 if truth.ndim == 2 else np.eye(answers.shape[-1], dtype=bool)[truth]
    found = []
    for k in range(answers.shape[-1]):
        chances = np.where(flags[:, k], answers[..., k], 1 - answers[..., k])
        count = int(flags[:, k].sum())
        found.append((count * mixture(chances, 50) + prior * shared) / (count + prior))
    return np.stack(found, axis=1)


def _of_logits(logits: np.ndarray, truth: np.ndarray, labels: Labels, rounds: int = 200) -> np.ndarray:
    """The weights whose mean logits have the least loss, by exponentiated gradient (J. Kivinen and M. Warmuth, 1997).

    With a canonical link (softmax and sigmoid with cross-entropy, a number with its squared error) the gradient of the
    loss by the mean logit is what is answered minus the truth.
    """
    target = np.eye(logits.shape[-1])[truth] if labels == "class" else np.asarray(truth, np.float64)
    target = target.reshape(logits.shape[1:])
    weights, rate = np.full(len(logits), 1 / len(logits)), 0.5 / max(float(np.abs(logits).std()), 1e-6) ** 2
    for _ in range(rounds):
        left = probabilities(np.tensordot(weights, logits, 1), labels) - target
        slope = np.array([(left * voice).sum(-1).mean() for voice in logits])
        weights = weights * np.exp(-rate * (slope - slope.min()))
        weights /= weights.sum()
    return np.asarray(weights)


def temperature(logits: np.ndarray, truth: np.ndarray, labels: Labels) -> float:
    """What logits [N, K] are divided by so that probabilities say how often they are right; 1 of a number.

    The least log loss on held-out examples (C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    section 4.2), by a golden-section search over 1/10 to 10.
    """
    if labels == "number":
        return 1.0
    golden, low, high = (5**0.5 - 1) / 2, np.log(0.1), np.log(10.0)

    def loss(x: float) -> float:
        return -float(log_scores(probabilities(logits / np.exp(x), labels), truth, labels).mean())

    for _ in range(30):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def folds(n: int, seed: int = 0) -> np.ndarray:
    """Which of FOLDS folds each of `n` examples is in, int64 [n]."""
    return np.random.default_rng(seed).permutation(n) % FOLDS


def out_of_fold(logits: np.ndarray, truth: np.ndarray, labels: Labels, way: Way, answer: Answer) -> np.ndarray:
    """The answer to each example, float64 [N, K], with weights fitted on the folds that it is not in."""
    where = folds(logits.shape[1])
    found = np.empty(logits.shape[1:])
    for fold in range(FOLDS):
        inside, rest = where == fold, where != fold
        if inside.any():
            found[inside] = answer(logits[:, inside], fit(logits[:, rest], truth[rest], labels, way))
    return found


def disagreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of examples on which one of two voices is right, of `right` bool [N] each."""
    return float((a != b).mean())


def q_statistic(a: np.ndarray, b: np.ndarray) -> float | None:
    """Yule's Q of who is right: 1 = always on the same examples, 0 = independently, below 0 = on different ones.

    L. Kuncheva and C. Whitaker, "Measures of Diversity in Classifier Ensembles", Machine Learning 51 (2003), section
    2.1. None where it is 0 / 0.
    """
    both, neither = float((a & b).sum()), float((~a & ~b).sum())
    first, second = float((a & ~b).sum()), float((~a & b).sum())
    total = both * neither + first * second
    return (both * neither - first * second) / total if total else None


def diversity(right: np.ndarray) -> dict[str, float | None]:
    """Means over all pairs of voices, of `right` bool [M, N]."""
    pairs = [(right[i], right[j]) for i in range(len(right)) for j in range(i)]
    if not pairs:
        return {"disagreement": None, "q_statistic": None}
    found = [q for a, b in pairs if (q := q_statistic(a, b)) is not None]
    mean_q = float(np.mean(found)) if found else None
    return {"disagreement": float(np.mean([disagreement(a, b) for a, b in pairs])), "q_statistic": mean_q}
