"""The figures of an evaluation, held against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from tlcompile.evaluate.figures import summarize


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    """(classes, labels [n], predicted [n]); some classes may be absent from either."""
    classes = draw(st.integers(2, 5))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=40))
    labels, predicted = np.array(pairs, np.int64).T
    return classes, labels, predicted


def summary(classes: int, labels: np.ndarray, predicted: np.ndarray) -> dict[str, object]:
    probabilities = np.full((len(labels), classes), 0.1, np.float32)
    probabilities[np.arange(len(labels)), predicted] = 0.6
    return summarize(probabilities, labels, tuple(f"class {i}" for i in range(classes)))


@given(outcomes())
def test_they_are_those_of_scikit_learn(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    classes, labels, predicted = case
    found = summary(*case)
    every = list(range(classes))
    precision, recall, f1, n = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    assert found["n"] == len(labels)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["confusion"] == confusion_matrix(labels, predicted, labels=every).tolist()
    rows = found["per_class"]
    assert isinstance(rows, list)
    assert [row["class"] for row in rows] == [f"class {i}" for i in every]
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("n", n)):
        assert [row[name] for row in rows] == pytest.approx(list(expected)), name


@given(outcomes())
def test_the_interval_holds_the_accuracy_and_all_is_json(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    found = json.loads(json.dumps(summary(*case)))
    low, high = found["accuracy_interval"]
    assert 0 <= low <= found["accuracy"] <= high <= 1


def test_rows_of_the_confusion_matrix_are_the_actual_classes() -> None:
    labels, predicted = np.array([0, 0, 1]), np.array([1, 1, 1])
    assert summary(2, labels, predicted)["confusion"] == [[0, 2], [0, 1]]
