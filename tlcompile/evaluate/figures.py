"""What the answers of an artifact are worth: one score an example, and figures of a whole split.

numpy, and scikit-learn for average precision, out of saved outputs: the process that measures engines imports no torch,
and figures can be made again without running one. They are those of torchmetrics, which the tests hold them against;
its R² alone is another where errors are small (sums of squares below 1e-4 count as 0) or the mean is far from 0.

The headline, called `accuracy` everywhere, is the mean of the scores: top-1 for one class, the share of right labels
for several, R² for a number. A label of several is given where its probability is above 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlcompile.artifacts import Labels
from tlcompile.errors import DataError
from tlcompile.evaluate.statistics import bootstrap_interval


def scores(answers: np.ndarray, truth: np.ndarray, labels: Labels = "class", threshold: float = 0.5) -> np.ndarray:
    """One score an example [n]: bool for one class, else float64.

    `answers` float [n, K] or, of numbers, [n, 1]; `truth` as in `Split.truth`. `threshold` of logits is 0. Numbers may
    be in any unit, the same for both; their variance is that of `truth`, which must not be constant.
    """
    if labels == "class":
        return np.asarray(answers.argmax(-1) == truth)
    if labels == "classes":
        return np.asarray(((answers > threshold) == (truth > 0.5)).mean(-1))
    truth = np.asarray(truth, np.float64)
    variance = truth.var()
    if not variance:
        raise DataError(f"all {len(truth)} targets are the same number: R² needs targets that differ")
    return np.asarray(1 - (np.asarray(answers, np.float64)[:, 0] - truth) ** 2 / variance)


def summarize(
    answers: np.ndarray, truth: np.ndarray, classes: Sequence[str], labels: Labels = "class"
) -> dict[str, Any]:
    """`n`, `accuracy` with its 95 % bootstrap interval, further `metrics` by name, `per_class` rows and `confusion`.

    `confusion[i][j]` counts examples of class i that were called j; it is empty where an example has not one class. Of
    R², the interval takes the variance of the truth as given.
    """
    each = scores(answers, truth, labels)
    makers = {"class": _of_class, "classes": _of_classes, "number": _of_number}
    return {
        "n": len(truth),
        "accuracy": float(each.mean()),
        "accuracy_interval": list(bootstrap_interval(each)),
        **makers[labels](answers, truth, classes),
    }


def _of_class(probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, probabilities.argmax(-1)), 1)
    hits, actual, called = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    rows = [_row(*row) for row in zip(classes, hits, actual, called, strict=True)]
    metrics = {
        "macro_f1": _macro_f1(rows, called),
        "balanced_accuracy": _mean(row["recall"] for row in rows if row["n"]),
    }
    return {"metrics": metrics, "per_class": rows, "confusion": confusion.tolist()}


def _of_classes(probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score

    given, wanted = probabilities > 0.5, truth > 0.5
    hits, actual, called = (given & wanted).sum(0), wanted.sum(0), given.sum(0)
    rows = [_row(*row) for row in zip(classes, hits, actual, called, strict=True)]
    for i, row in enumerate(rows):
        precision = float(average_precision_score(wanted[:, i], probabilities[:, i])) if row["n"] else None
        row["average_precision"] = precision
    metrics = {
        "exact_match": float((given == wanted).all(-1).mean()),
        "micro_f1": _share(2 * hits.sum(), actual.sum() + called.sum()),
        "macro_f1": _macro_f1(rows, called),
        "mean_average_precision": _mean(row["average_precision"] for row in rows if row["n"]),
    }
    return {"metrics": metrics, "per_class": rows, "confusion": []}


def _of_number(values: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    found = np.asarray(values, np.float64)[:, 0]
    error = found - truth
    metrics = {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "spearman": _correlation(_ranks(found), _ranks(truth)),
    }
    return {"metrics": metrics, "per_class": [], "confusion": []}


def _row(name: str, hits: np.integer, actual: np.integer, called: np.integer) -> dict[str, Any]:
    return {
        "class": name,
        "n": int(actual),
        "recall": _share(hits, actual),
        "precision": _share(hits, called),
        "f1": _share(2 * hits, actual + called),
    }


def _macro_f1(rows: list[dict[str, Any]], called: np.ndarray) -> float | None:
    """Mean of F1 over the classes that are there or were given."""
    return _mean(row["f1"] for row, count in zip(rows, called, strict=True) if row["n"] or count)


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def _mean(values: Any) -> float | None:
    """The mean; None of nothing, as where a split holds no example of any class."""
    every = list(values)
    return float(np.mean(every)) if every else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks float64 [n] from 1 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray(((2 * ends - counts + 1) / 2)[place])


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's; None where one of them is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else None
