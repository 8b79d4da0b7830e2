"""Parameter groups, the optimizer and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tlcompile.recipe.tables import TrainTable


def groups(module: nn.Module, head: tuple[str, ...], table: TrainTable) -> list[dict[str, object]]:
    """Trainable parameters by {body, head} × {decayed, not decayed}; biases and norms (1-d) are not decayed."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            place = "head" if name.startswith(tuple(f"{h}." for h in head)) else "body"
            decay = "decay" if parameter.ndim > 1 else "no_decay"
            found.setdefault(f"{place}_{decay}", []).append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "lr": table.lr * (table.head_lr_scale if name.startswith("head") else 1),
            "weight_decay": table.weight_decay if name.endswith("_decay") and "no_" not in name else 0.0,
        }
        for name, parameters in found.items()
    ]


def optimizer(module: nn.Module, head: tuple[str, ...], table: TrainTable) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups(module, head, table), lr=table.lr)


def factor(step: int, steps: int, table: TrainTable) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up, then constant or half a cosine to 0."""
    warmup = round(table.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    if table.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def schedule(optimizer: torch.optim.Optimizer, steps: int, table: TrainTable) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: factor(step, steps, table))
