"""What a recipe leaves to be found out: the schedule's name, the batch size, the learning rate.

What was found is kept in `work`, so that a resumed run uses the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tlcompile import progress
from tlcompile.artifacts import read_json, write_json
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import batch_size, find_lr, machine, optim, schedules
from tlcompile.train.features import training_loader

if TYPE_CHECKING:
    from torch import Tensor

    from tlcompile.train.loop import Trainer

RANGE_STEPS = 100


def number(batch_size: int | str) -> int:
    """The batch size of a settled table."""
    if isinstance(batch_size, str):
        raise TypeError("the batch size is still to be found")
    return batch_size


def table(trainer: Trainer, rates: dict[str, float]) -> TrainTable:
    """The recipe's table without anything left open."""
    asked, path = trainer.job.table, trainer.work / "found.json"
    kind = "image" if trainer.size else "text"
    asked = asked.model_copy(update={"schedule": schedules.resolve(asked, kind)})
    if path.exists():
        return asked.model_copy(update={k: v for k, v in read_json(path).items() if k != "lr_curve"})
    found: dict[str, Any] = {}
    if asked.batch_size == "auto":
        found["batch_size"] = _batch_size(trainer, asked)
    asked = asked.model_copy(update=found)
    if asked.lr == "find":
        found["lr"], found["lr_curve"] = _rate(trainer, asked, rates)
        progress.say(f"  learning rate {found['lr']:.2g}: where the loss fell most steeply")
    if found and trainer.accelerator.is_main_process:
        write_json(path, found)
    trainer.accelerator.wait_for_everyone()
    return asked.model_copy(update={k: v for k, v in found.items() if k != "lr_curve"})


def _batch_size(trainer: Trainer, asked: TrainTable) -> int:
    """The largest that fits, found by the main process: the others would compete with it for the memory."""
    found = [0]
    if trainer.accelerator.is_main_process:
        loader, order = training_loader(
            trainer.train, trainer.network, trainer.size, asked, 1, trainer.job.seed, trainer.work
        )
        order.begin(asked.epochs - 1)
        inputs, targets = next(iter(loader))
        device = trainer.accelerator.device

        def loss(logits: Tensor) -> Tensor:
            return trainer.loss(logits, targets.to(device).expand(len(logits), *targets.shape[1:]))

        found = [batch_size.find(trainer.network.module, inputs, loss, len(trainer.train), device)]
    if trainer.accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    return int(found[0] * trainer.accelerator.num_processes)


def _rate(trainer: Trainer, asked: TrainTable, rates: dict[str, float]) -> tuple[float, find_lr.Curve]:
    """By the range test, on whole batches; every process finds the same."""
    network, accelerator = trainer.network, trainer.accelerator
    size = number(asked.batch_size)
    loader, _ = training_loader(trainer.train, network, trainer.size, asked, size, trainer.job.seed, trainer.work)
    network.module.to(accelerator.device).train()

    def step_loss(batch: tuple[dict[str, Tensor], Tensor]) -> Tensor:
        inputs, targets = batch
        with machine.forward_pass(accelerator, asked):
            logits = network.module(*(v.to(accelerator.device) for v in inputs.values()))
        loss: Tensor = trainer.loss(logits, targets.to(accelerator.device))
        return loss

    def make(lr: float) -> torch.optim.Optimizer:
        return optim.optimizer(network.module, network.head, asked.model_copy(update={"lr": lr}), rates)

    return find_lr.find(
        network.module, loader, step_loss, make, steps=RANGE_STEPS, clip_norm=asked.clip_norm, seed=trainer.job.seed
    )
