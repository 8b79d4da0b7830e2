"""Keys of [train] that do not fit the task are told with their line, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import recipe
from tlcompile import registry
from tlcompile.errors import RecipeError
from tlcompile.recipe import load
from tlcompile.recipe.fits import check
from tlcompile.recipe.train_table import AugmentTable, TrainTable


def told(table: TrainTable, task: str) -> dict[str, str]:
    return {p.where: p.what for p in check(table, registry.load("tasks", task))}


def test_views_of_images_are_refused_for_texts() -> None:
    table = TrainTable(augment=AugmentTable(mixup=0.2, hflip=True, crop_scale_min=0.5), image_size=64)
    found = told(table, "text-classification")
    assert sorted(found) == [
        "train.augment.crop_scale_min",
        "train.augment.hflip",
        "train.augment.mixup",
        "train.image_size",
    ]
    assert found["train.augment.mixup"] == "is for images; text-classification learns from texts"
    assert not told(table, "image-classification")


def test_views_of_texts_are_refused_for_images() -> None:
    found = told(TrainTable(augment=AugmentTable(mask_tokens=0.1)), "image-classification")
    assert found == {"train.augment.mask_tokens": "is for texts; image-classification learns from images"}


def test_a_head_on_fixed_features_sees_no_augmentation() -> None:
    found = told(TrainTable(trainable="head", augment=AugmentTable(hflip=True)), "image-classification")
    assert "computes features once, so hflip would never be seen" in found["train.augment"]


def test_a_loss_that_does_not_fit_the_task_is_told_with_those_that_do() -> None:
    found = told(TrainTable(loss="mse"), "image-classification")
    assert "cross-entropy" in found["train.loss"]
    assert told(TrainTable(loss="focal"), "text-regression")["train.loss"]


def test_the_place_in_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = recipe(tmp_path / "r.toml", train='loss = "huber"\naugment = { mask_tokens = 0.2, synonyms = 0.1 }')
    with pytest.raises(RecipeError) as caught:
        load(path)
    told = str(caught.value)
    assert "r.toml:17: train.loss" in told
    assert "train.augment.mask_tokens" in told
    assert "train.augment.synonyms" in told


def test_keys_that_change_nothing_for_a_head_alone_are_refused() -> None:
    found = told(TrainTable(trainable="head", image_size=32, gradient_checkpointing=True), "image-classification")
    assert sorted(found) == ["train.gradient_checkpointing", "train.image_size"]


def test_a_head_start_needs_single_classes() -> None:
    assert "train.head_start" in told(TrainTable(head_start=True), "text-regression")
    assert "train.head_start" in told(TrainTable(head_start=True), "image-multilabel")


def test_a_model_that_fills_masks_needs_masks() -> None:
    keys = {"fill_masks": "models/bert"}
    found = told(TrainTable(augment=AugmentTable(**keys)), "text-classification")
    assert found == {"train.augment.fill_masks": "fills what mask_tokens or mask_entities mask, and both are 0"}
    assert not told(TrainTable(augment=AugmentTable(**keys, mask_entities=0.5)), "text-classification")


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"focal_gamma": 3.0}, "focal_gamma"),
        ({"loss": "focal", "huber_delta": 2.0}, "huber_delta"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing"),
        ({"epochs": 1, "image_size_start": 16}, "image_size_start"),
    ],
)
def test_a_key_that_nothing_would_read_is_refused(keys: dict[str, object], where: str) -> None:
    assert list(told(TrainTable(**keys), "image-classification")) == [f"train.{where}"]
    assert not told(TrainTable(loss="focal", focal_gamma=3.0), "image-classification")
