"""The hyper-parameters as they were really applied: read back from optimizer, schedule, loader and network.

A recipe value that got lost on the way (a key that nothing reads, a scheduler that never stepped) is an error here and
not a footnote.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tlcompile.errors import Problem, TlcompileError
from tlcompile.recipe.tables import TrainTable
from tlcompile.train.optim import factor


def dropouts(module: nn.Module) -> list[float]:
    """The distinct dropout probabilities in use, sorted."""
    return sorted({m.p for m in module.modules() if isinstance(m, nn.Dropout) and m.p > 0})


def read_back(optimizer: torch.optim.Optimizer, module: nn.Module, facts: dict[str, Any]) -> dict[str, Any]:
    """What the finished run can say of itself; `facts` are counted by the loop."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return {
        "optimizer": type(inner).__name__,
        "groups": [
            {
                "name": g["name"],
                "parameters": sum(p.numel() for p in g["params"]),
                "peak_lr": g["initial_lr"],
                "last_lr": g["lr"],
                "weight_decay": g["weight_decay"],
                "betas": list(g["betas"]),
                "eps": g["eps"],
            }
            for g in inner.param_groups
        ],
        "dropout": dropouts(module),
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        **facts,
    }


def compare(applied: dict[str, Any], table: TrainTable) -> None:
    """TlcompileError naming each value of `table` that was not applied."""
    steps = applied["steps"]
    expected: dict[str, tuple[Any, Any]] = {
        "optimizer": (table.optimizer, applied["optimizer"].lower()),
        "epochs": (table.epochs, applied["epochs"]),
        "batch_size": (table.batch_size, applied["batch_size"]),
        "label_smoothing": (table.label_smoothing, applied["label_smoothing"]),
        "schedule": (factor(steps, steps, table), applied["schedule_factor_at_end"]),
    }
    for group in applied["groups"]:
        scale = table.head_lr_scale if group["name"].startswith("head") else 1.0
        decay = 0.0 if "no_decay" in group["name"] else table.weight_decay
        expected[f"lr of {group['name']}"] = (table.lr * scale, group["peak_lr"])
        expected[f"weight_decay of {group['name']}"] = (decay, group["weight_decay"])
    lost = [
        Problem(f"train.{name}", f"the recipe says {asked}, training applied {found}")
        for name, (asked, found) in expected.items()
        if asked != found
    ]
    if lost:
        raise TlcompileError(*lost)
