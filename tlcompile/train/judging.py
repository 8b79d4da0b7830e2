"""What the weights of a run are worth, and which of them are kept in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tlcompile.train import averaging, optim, select

if TYPE_CHECKING:
    from tlcompile.train.loop import Trainer

RECENT = 50
"""Batches that batch norms see of Schedule-Free's average before it is validated: its authors' advice (README of
facebookresearch/schedule_free, "Caveats"). What is kept in the end sees all."""


@contextmanager
def weights_that_count(trainer: Trainer) -> Iterator[nn.Module]:
    """The network with a moving average's or Schedule-Free's weights, if there are such, and norms that fit them.

    All processes must enter: batch norms of Schedule-Free's average read the loader.
    """
    module, average = trainer.network.module, trainer.average.weights() if trainer.average.decay else None
    free = trainer.table.optimizer == "schedulefree"
    optim.to_eval(trainer.optimizer)
    before = {name: value.clone() for name, value in module.state_dict().items()} if average or free else {}
    if average:
        module.load_state_dict(average)
    elif free:
        refresh_norms(trainer, RECENT)
    try:
        yield module
    finally:
        if before:
            module.load_state_dict(before)
        optim.to_train(trainer.optimizer)


def validate(trainer: Trainer) -> tuple[float, float]:
    """(mean loss without smoothing and weights, mean score) of the network as it is, on the validation split."""
    loss, score, seen = 0.0, 0.0, 0
    trainer.module.eval()
    with torch.inference_mode():
        for inputs, targets in trainer.val_loader:
            logits, targets = trainer.accelerator.gather_for_metrics((trainer.module(*inputs.values()), targets))
            loss += float(trainer.plain_loss(logits, targets)) * len(targets)
            score += float(trainer.task.score(logits, targets).sum())
            seen += len(targets)
    return loss / seen, score / seen


def keep(trainer: Trainer) -> str:
    """Put the weights that are kept into the network; which they are, in words."""
    table, module = trainer.table, trainer.network.module

    def score(state: dict[str, Tensor]) -> float:
        module.load_state_dict(state)
        refresh_norms(trainer)
        return validate(trainer)[1]

    chosen = trainer.choice.final(trainer.history, score)
    optim.to_eval(trainer.optimizer)
    averaged = trainer.average.weights()
    if chosen or averaged:
        module.load_state_dict(chosen[0] if chosen else averaged or {})
    if table.average_last or table.keep == "soup" or table.optimizer == "schedulefree":
        refresh_norms(trainer)
    if chosen:
        return chosen[1]
    if table.average_last:
        return f"the mean of the weights after the last {table.average_last} epochs"
    return f"moving average of the weights, decay {table.ema_decay}" if table.ema_decay else "the last"


def refresh_norms(trainer: Trainer, most: int | None = None) -> None:
    """Batch norms that learn take the statistics that fit the weights, from all batches or the last `most` of them."""
    select.train_mode(trainer.network, trainer.table)
    skipped = max(0, trainer.batches - most) if most else 0
    trainer.order.begin(trainer.table.epochs, skipped * trainer.batch_size)
    averaging.recalibrate(trainer.network.module, trainer.loader)
