"""Figures of several labels and of numbers, held against torchmetrics and scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, r2_score
from torchmetrics.functional import (
    mean_absolute_error,
    mean_squared_error,
    spearman_corrcoef,
)
from torchmetrics.functional import (
    r2_score as tm_r2,
)
from torchmetrics.functional.classification import (
    multiclass_f1_score,
    multilabel_accuracy,
    multilabel_average_precision,
    multilabel_exact_match,
    multilabel_f1_score,
)

from tlcompile.errors import DataError
from tlcompile.evaluate.figures import scores, summarize

NAMES = ("ant", "bee", "cat")
SEEDS = st.integers(0, 2**32 - 1)


def several(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 [n, 3] that know something, and labels float32 [n, 3]; every class occurs."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 3)) < 0.4).astype(np.float32)
    truth[0] = 1
    return (rng.random((n, 3)) * 0.7 + 0.3 * truth).astype(np.float32), truth


@settings(max_examples=20)
@given(SEEDS)
def test_several_labels_as_torchmetrics_counts_them(seed: int) -> None:
    probabilities, truth = several(seed)
    found = summarize(probabilities, truth, NAMES, "classes")
    given_, wanted = torch.tensor(probabilities), torch.tensor(truth).long()
    precisions = multilabel_average_precision(given_, wanted, 3, average="none")
    expected = {
        "exact_match": multilabel_exact_match(given_, wanted, 3),
        "micro_f1": multilabel_f1_score(given_, wanted, 3, average="micro"),
        "macro_f1": multilabel_f1_score(given_, wanted, 3, average="macro"),
        "mean_average_precision": precisions.mean(),
    }
    assert found["metrics"] == pytest.approx({k: v.item() for k, v in expected.items()}, abs=1e-6)
    assert found["accuracy"] == pytest.approx(multilabel_accuracy(given_, wanted, 3, average="micro").item())
    assert [row["average_precision"] for row in found["per_class"]] == pytest.approx(precisions.tolist(), abs=1e-6)
    assert [row["n"] for row in found["per_class"]] == truth.sum(0).tolist()


@settings(max_examples=20)
@given(SEEDS, st.floats(1, 1e6), st.floats(-1, 1))  # torchmetrics takes small errors for 0 and cancels far from 0
def test_numbers_as_torchmetrics_measures_them(seed: int, size: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    truth = np.round(rng.normal(offset, size, 50), 3)
    values = (truth + rng.normal(0, size / 2, 50))[:, None]
    found = summarize(values, truth, (), "number")
    x, y = torch.tensor(values[:, 0]), torch.tensor(truth)
    expected = {
        "mae": mean_absolute_error(x, y),
        "rmse": mean_squared_error(x, y, squared=False),
        "spearman": spearman_corrcoef(x, y),
    }
    assert found["metrics"] == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-4)
    assert found["accuracy"] == pytest.approx(tm_r2(x, y).item(), rel=1e-6, abs=1e-6)
    assert found["accuracy"] == pytest.approx(r2_score(truth, values[:, 0]))


@settings(max_examples=20)
@given(SEEDS)
def test_the_further_figures_of_one_class_are_those_of_scikit_learn_and_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, probabilities = rng.integers(0, 3, 30), rng.random((30, 3)).astype(np.float32)
    called = probabilities.argmax(-1)
    metrics = summarize(probabilities, truth, NAMES)["metrics"]
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, called, average="macro"))
    macro = multiclass_f1_score(torch.tensor(called), torch.tensor(truth), 3, average="macro")
    assert metrics["macro_f1"] == pytest.approx(macro.item())
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, called))


def test_a_class_that_no_example_has_is_left_out_of_means_and_nothing_is_nan() -> None:
    truth = np.zeros((4, 3), np.float32)
    empty = summarize(np.full((4, 3), 0.1, np.float32), truth, NAMES, "classes")
    assert empty["accuracy"] == 1.0
    assert empty["metrics"]["exact_match"] == 1.0
    assert empty["metrics"]["mean_average_precision"] is None
    truth[0, 0] = 1
    part = summarize(np.eye(4, 3, dtype=np.float32), truth, NAMES, "classes")
    assert part["metrics"]["mean_average_precision"] == 1.0
    assert [row["average_precision"] for row in part["per_class"]] == [1.0, None, None]
    json.dumps([empty, part], allow_nan=False)


def test_a_class_that_was_given_and_is_not_there_counts_in_macro_f1() -> None:
    truth, probabilities = np.array([0, 0, 1]), np.eye(3, dtype=np.float32)[[0, 2, 1]]
    assert summarize(probabilities, truth, NAMES)["metrics"]["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_constant_answer_has_no_rank_correlation() -> None:
    found = summarize(np.zeros((5, 1)), np.arange(5.0), (), "number")
    assert found["metrics"]["spearman"] is None
    json.dumps(found, allow_nan=False)


def test_r2_of_a_constant_truth_is_refused_in_a_sentence() -> None:
    with pytest.raises(DataError, match="all 3 targets are the same number"):
        scores(np.zeros((3, 1)), np.ones(3), "number")


@given(SEEDS)
def test_the_unit_of_a_number_does_not_change_its_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, values = rng.normal(size=20), rng.normal(size=(20, 1))
    assert scores(7 * values + 3, 7 * truth + 3, "number") == pytest.approx(scores(values, truth, "number"))


def test_logits_are_judged_at_0_as_probabilities_at_a_half() -> None:
    probabilities, truth = several(1)
    logits = np.log(probabilities / (1 - probabilities))
    found = [scores(a, truth, "classes", threshold=t) for a, t in ((probabilities, 0.5), (logits, 0.0))]
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("labels", ["classes", "number"])
def test_the_interval_holds_the_headline_figure(labels: Any) -> None:
    answers, truth = several(2) if labels == "classes" else (np.arange(30.0)[:, None] + 1, np.arange(30.0))
    found = summarize(answers, truth, NAMES, labels)
    low, high = found["accuracy_interval"]
    assert low <= found["accuracy"] <= high <= 1
    assert low < high or labels == "number"
