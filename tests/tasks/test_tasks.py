"""The contract of a task, held by every one there is; what of a recipe does not fit a task."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from tlcompile import registry
from tlcompile.recipe.train_table import TrainTable
from tlcompile.tasks import check, loss_name

NAMES = registry.names("tasks")


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> ModuleType:
    return registry.load("tasks", request.param)


def targets(task: ModuleType) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of 8 examples and their targets: half of the examples are answered rightly."""
    if task.LABELS == "number":
        return torch.tensor([[0.0], [1.0]] * 4), torch.zeros(8)
    right = torch.eye(3)[torch.arange(8) % 3]
    logits = 4 * right - 2
    logits[::2] *= -1
    return logits, right if task.LABELS == "classes" else right.argmax(-1)


def test_images_and_texts_have_the_same_tasks() -> None:
    assert set(NAMES) >= {f"{k}-{t}" for k in ("image", "text") for t in ("classification", "multilabel", "regression")}


def test_a_task_says_what_it_learns_and_how(task: ModuleType) -> None:
    assert task.KIND in ("image", "text")
    activations = {"class": "softmax", "classes": "sigmoid", "number": "identity"}
    assert activations[task.LABELS] == task.ACTIVATION
    assert task.METRIC
    assert loss_name(TrainTable(), task) == task.LOSSES[0]
    assert set(task.LOSSES) < set(TrainTable.model_fields["loss"].annotation.__args__)


def test_every_loss_falls_when_the_answer_gets_better(task: ModuleType) -> None:
    outputs, wanted = targets(task)
    better = outputs * 0 if task.LABELS == "number" else 4 * torch.eye(3)[torch.arange(8) % 3] - 2
    for name in task.LOSSES:
        function = task.loss(name, TrainTable(), [3, 3, 2])
        assert function(better, wanted) < function(outputs, wanted)


def test_the_mean_score_is_the_headline_figure(task: ModuleType) -> None:
    outputs, wanted = targets(task)
    score = task.score(outputs, wanted)
    assert score.shape == (8,)
    assert score.dtype == torch.float32
    expected = {"class": 0.5, "classes": 0.5, "number": 0.5}[task.LABELS]
    assert score.mean().item() == pytest.approx(expected)


def test_a_mixed_target_counts_as_its_larger_part() -> None:
    score = registry.load("tasks", "image-classification").score
    assert score(torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[0.3, 0.7], [0.7, 0.3]])).tolist() == [1, 0]


def mistakes(name: str, n_classes: int | None = 3, **keys: object) -> list[str]:
    return [str(p) for p in check(TrainTable.model_validate(keys), registry.load("tasks", name), n_classes)]


def test_a_loss_that_does_not_fit_the_task_is_told_with_those_that_do() -> None:
    what = "train.loss: 'mse' does not fit image-classification, which takes"
    assert mistakes("image-classification", loss="mse")[0].startswith(what)
    assert mistakes("text-multilabel", loss="cross-entropy") == [
        "train.loss: 'cross-entropy' does not fit text-multilabel, which takes 'bce' or 'focal'"
    ]
    assert len(mistakes("image-regression", loss="bce")) == 1


def test_class_weights_of_the_wrong_length_are_told() -> None:
    expected = "train.class_weights: found 2 weights, expected one for each of 3 classes in their order"
    assert mistakes("image-classification", class_weights=(1.0, 2.0)) == [expected]
    assert mistakes("image-classification", None, class_weights=(1.0, 2.0)) == []
    assert mistakes("image-classification", class_weights=(1.0, 2.0, 0.0)) == []
    assert len(mistakes("image-classification", class_weights=(0.0, 0.0, 0.0))) == 1
    assert len(mistakes("image-classification", class_weights=(1.0, -1.0, 1.0))) == 1


def test_what_is_for_classes_does_not_fit_a_number_and_all_of_it_is_told_at_once() -> None:
    found = mistakes(
        "image-regression", label_smoothing=0.1, class_weights="balanced", augment={"mixup": 0.2}, loss="hinge"
    )
    assert [line.split(":")[0] for line in found] == [
        "train.loss",
        "train.label_smoothing",
        "train.class_weights",
        "train.augment.mixup",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_head_start_is_for_one_class(name: str) -> None:
    found = mistakes(name, head_start=True)
    assert found == [] if name.endswith("classification") else found[0].startswith("train.head_start: ")


def test_checking_imports_no_torch() -> None:
    code = (
        "import sys; from tlcompile import registry; from tlcompile.tasks import check;"
        "from tlcompile.recipe.train_table import TrainTable;"
        "[check(TrainTable(), registry.load('tasks', n)) for n in registry.names('tasks')];"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
