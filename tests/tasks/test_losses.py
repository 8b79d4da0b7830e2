"""The losses: what their papers say, gradients against finite differences, finite at extreme logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as f

from tlcompile import registry
from tlcompile.recipe.train_table import TrainTable
from tlcompile.tasks import _losses

CLASS = registry.load("tasks", "image-classification")
CLASSES = registry.load("tasks", "text-multilabel")
NUMBER = registry.load("tasks", "image-regression")
COUNTS = (5, 1, 2, 8)
EVERY = [(task, name) for task in (CLASS, CLASSES, NUMBER) for name in task.LOSSES]


def table(**keys: object) -> TrainTable:
    return TrainTable.model_validate(keys)


def pair(task: object, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [6, 4] (or [6, 1]) and targets as the task has them."""
    rng = torch.Generator().manual_seed(seed)
    if task is NUMBER:
        return torch.randn(6, 1, generator=rng, dtype=dtype), torch.randn(6, generator=rng)
    logits = 2 * torch.randn(6, 4, generator=rng, dtype=dtype)
    if task is CLASSES:
        return logits, torch.randint(0, 2, (6, 4), generator=rng).float()
    return logits, torch.randint(0, 4, (6,), generator=rng)


def options(task: object) -> list[dict[str, object]]:
    if task is NUMBER:
        return [{}, {"huber_delta": 0.3}]
    smoothed = {"label_smoothing": 0.1, "class_weights": (1.0, 3.0, 0.5, 2.0), "focal_gamma": 0.5}
    return [{}, smoothed, {"class_weights": "balanced"}]


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_gradients_are_those_of_finite_differences(task: object, name: str) -> None:
    for keys in options(task):
        function = task.loss(name, table(**keys), COUNTS)
        logits, targets = pair(task)
        assert torch.autograd.gradcheck(lambda x: function(x, targets), logits.requires_grad_())  # noqa: B023


@pytest.mark.parametrize("name", CLASS.LOSSES)
def test_gradients_of_soft_targets_are_those_of_finite_differences(name: str) -> None:
    function = CLASS.loss(name, table(), None)
    logits, _ = pair(CLASS)
    targets = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    assert torch.autograd.gradcheck(lambda x: function(x, targets), logits.requires_grad_())


@pytest.mark.parametrize(("task", "name"), EVERY)
@pytest.mark.parametrize("size", [0.0, 1e-30, 30.0, 1e4, 1e15, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(task: object, name: str, size: float) -> None:
    if name == "mse" and size > 1e15:
        pytest.skip("its square is beyond fp32")
    for keys in options(task):
        function = task.loss(name, table(**keys), COUNTS)
        _, targets = pair(task)
        signs = torch.tensor([[1.0] if task is NUMBER else [1.0, -1.0, 0.0, 0.5]] * 6)
        logits = (size * signs).requires_grad_()
        value = function(logits, targets)
        value.backward()
        assert torch.isfinite(value)
        assert value >= 0
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_half_precision_logits_are_computed_in_fp32(task: object, name: str) -> None:
    logits, targets = pair(task, torch.bfloat16)
    assert task.loss(name, table(), COUNTS)(logits, targets).dtype == torch.float32


@pytest.mark.parametrize("name", CLASS.LOSSES)
@pytest.mark.parametrize("keys", options(CLASS))
def test_hard_targets_are_one_hot_soft_targets(name: str, keys: dict[str, object]) -> None:
    function = CLASS.loss(name, table(**keys), COUNTS)
    logits, targets = pair(CLASS)
    assert function(logits, targets).item() == pytest.approx(function(logits, f.one_hot(targets, 4).float()).item())


def test_cross_entropy_of_hard_targets_is_torch_s_to_the_bit() -> None:
    logits, targets = pair(CLASS, torch.float32)
    found = CLASS.loss("cross-entropy", table(label_smoothing=0.1), None)(logits, targets)
    assert torch.equal(found, f.cross_entropy(logits, targets, label_smoothing=0.1))


def test_focal_with_gamma_0_is_cross_entropy_and_with_more_counts_the_easy_less() -> None:
    logits, targets = pair(CLASS)
    plain, focal = (CLASS.loss("focal", table(focal_gamma=g), None)(logits, targets) for g in (0.0, 2.0))
    assert plain.item() == pytest.approx(f.cross_entropy(logits, targets).item())
    p = logits.softmax(-1)[torch.arange(6), targets]
    assert focal.item() == pytest.approx((-((1 - p) ** 2) * p.log()).mean().item())


def test_binary_focal_is_torchvision_s_without_its_alpha() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, targets = pair(CLASSES)
    found = CLASSES.loss("focal", table(focal_gamma=1.5), None)(logits, targets)
    expected = sigmoid_focal_loss(logits, targets.double(), alpha=-1, gamma=1.5, reduction="mean")
    assert found.item() == pytest.approx(expected.item())


def test_hinge_asks_for_a_margin_of_1_over_the_best_other_logit() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 5.0, 1.0], [0.0, 0.0, 0.0]])
    found = [CLASS.loss("hinge", table(), None)(logits[i : i + 1], torch.tensor([0])).item() for i in range(3)]
    assert found == [0.5, 6.0, 1.0]


def test_bce_of_positives_counts_times_their_weight() -> None:
    logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    plain, weighted = (
        CLASSES.loss("bce", table(class_weights=w), None)(logits, targets).item() for w in ((1.0, 1.0), (3.0, 9.0))
    )
    assert weighted == pytest.approx(2 * plain)


def test_smoothing_of_several_labels_draws_both_answers_towards_a_half() -> None:
    logits, targets = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([[1.0, 0.0]] * 3)
    smoothed = CLASSES.loss("bce", table(label_smoothing=0.2), None)(logits, targets)
    assert smoothed.item() == pytest.approx(f.binary_cross_entropy_with_logits(logits, 0.1 + 0.8 * targets).item())


def test_kl_is_0_where_the_prediction_is_the_target() -> None:
    targets = torch.tensor([[0.7, 0.2, 0.1]])
    assert CLASS.loss("kl", table(), None)(targets.log(), targets).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [9.0, 9e30])
def test_cosine_is_0_along_the_target_and_2_against_it(size: float) -> None:
    logits = torch.tensor([[size, 0.0], [-size, 0.0]])
    found = [CLASS.loss("cosine", table(), None)(logits[i : i + 1], torch.tensor([0])).item() for i in range(2)]
    assert found == pytest.approx([0, 2])


def test_huber_is_half_the_square_near_and_linear_far() -> None:
    function = NUMBER.loss("huber", table(huber_delta=1.0), None)
    found = [function(torch.tensor([[x]]), torch.tensor([0.0])).item() for x in (0.5, 3.0)]
    assert found == [0.125, 2.5]


def test_balanced_weights_give_each_class_the_same_part_of_the_loss() -> None:
    weights = _losses.class_weights("balanced", COUNTS)
    assert weights is not None
    assert [w * c for w, c in zip(weights, COUNTS, strict=True)] == pytest.approx([4.0] * 4)
    assert _losses.class_weights("balanced", (2, 0)) == [0.5, 0.0]
    assert _losses.class_weights("none", COUNTS) is None


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_a_batch_that_holds_only_a_class_of_weight_0_is_finite(weights: str) -> None:
    function: Callable[[Tensor, Tensor], Tensor] = CLASS.loss("focal", table(class_weights=weights), (3, 0))
    assert torch.isfinite(function(torch.zeros(2, 2), torch.tensor([1, 1])))


@pytest.mark.parametrize("name", NUMBER.LOSSES)
def test_outputs_that_do_not_pair_with_the_numbers_are_refused_and_not_broadcast(name: str) -> None:
    function = NUMBER.loss(name, table(), None)
    with pytest.raises(ValueError, match=r"\[3, 2\] outputs for \[3\] targets"):
        function(torch.zeros(3, 2), torch.zeros(3))
