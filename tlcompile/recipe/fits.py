"""What tables of a recipe ask of each other: mistakes that no table can see alone. Imports no torch."""

from __future__ import annotations

from types import ModuleType

from tlcompile import tasks
from tlcompile.errors import Problem
from tlcompile.recipe.train_table import TrainTable


def check(table: TrainTable, task: ModuleType) -> list[Problem]:
    """What of `[train]` does not fit the task of `[data]`; places begin with `train.`"""
    problems = tasks.check(table, task)
    augment = table.augment
    wrong, other = (augment.texts_only, "texts") if task.KIND == "image" else (augment.images_only, "images")
    name = task.__name__.rpartition(".")[2].replace("_", "-")
    for key in wrong:
        problems.append(Problem(f"train.augment.{key}", f"is for {other}; {name} learns from {task.KIND}s"))
    if task.KIND == "text":
        for key in ("image_size", "image_size_start"):
            if getattr(table, key):
                problems.append(Problem(f"train.{key}", f"is for images; {name} learns from texts"))
    seen = augment.images_only if task.KIND == "image" else augment.texts_only
    if table.trainable == "head" and seen:
        what = f"trainable = 'head' computes features once, so {', '.join(seen)} would never be seen"
        problems.append(Problem("train.augment", what))
    problems += _without_effect(table, tasks.loss_name(table, task))
    for key in ("image_size", "image_size_start", "gradient_checkpointing") if table.trainable == "head" else ():
        if getattr(table, key):
            problems.append(
                Problem(f"train.{key}", "changes nothing where only the head is trained, on fixed features")
            )
    return problems


def _without_effect(table: TrainTable, loss: str) -> list[Problem]:
    """Keys that are set although nothing would read them."""
    plain = TrainTable()
    found = [
        Problem(f"train.{key}", f"is of the loss '{of}', this one is '{loss}'")
        for key, of in (("focal_gamma", "focal"), ("huber_delta", "huber"))
        if getattr(table, key) != getattr(plain, key) and loss != of
    ]
    if table.label_smoothing and loss == "hinge":
        found.append(Problem("train.label_smoothing", "the loss 'hinge' knows a margin and no shares of classes"))
    if table.augment.fill_masks and not (table.augment.mask_tokens or table.augment.mask_entities):
        what = "fills what mask_tokens or mask_entities mask, and both are 0"
        found.append(Problem("train.augment.fill_masks", what))
    if table.image_size_start and table.epochs == 1:
        found.append(Problem("train.image_size_start", "images grow from epoch to epoch, the run has one"))
    return found
