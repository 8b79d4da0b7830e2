"""The hyper-parameters as they were really applied: read back from optimizer, schedule, loss, loader and network.

A recipe value that got lost on the way (a key that nothing reads, a schedule that never stepped) is an error here and
not a footnote.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tlcompile.errors import Problem, TlcompileError
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import optim, schedules

if TYPE_CHECKING:
    from tlcompile.train.loop import Trainer

_CLASS_NAMES = {"MuonAdamW": "muon", "AdamWScheduleFree": "schedulefree"}
_PER_GROUP = ("betas", "eps", "momentum", "nesterov")


def read_back(trainer: Trainer, kept: str) -> dict[str, Any]:
    """What the finished run can say of itself."""
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    accelerator, module = trainer.accelerator, trainer.network.module
    loader: Any = trainer.loader
    kind = type(inner).__name__
    return {
        "optimizer": _CLASS_NAMES.get(kind, kind.lower()),
        "groups": [_group(g) for g in inner.param_groups],
        "schedule": {"name": trainer.schedule.table.schedule, **trainer.schedule.applied()},
        "weights": kept,
        "epochs": len(trainer.history),
        "steps": trainer.schedule.done,
        "batch_size": loader.total_batch_size,
        "accumulate": accelerator.gradient_accumulation_steps,
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in module.parameters()),
        "dropout": dropouts(module),
        "label_smoothing": label_smoothing(trainer.loss, max(2, len(trainer.job.classes)), trainer.table),
        "clip_norm": trainer.clipping.applied(),
        "seed": trainer.job.seed,
        "image_size": trainer.size or None,
        "augment": augment(trainer),
        "peak_rss_mib": max(row["peak_rss_mib"] for row in trainer.history),
        "notes": [*trainer.choice.notes(), *trainer.gradients.warnings(), *trainer.trackers.dropped],
    }


def _group(group: dict[str, Any]) -> dict[str, Any]:
    more = {key: list(group[key]) if key == "betas" else group[key] for key in _PER_GROUP if key in group}
    return {
        "name": group["name"],
        "parameters": sum(p.numel() for p in group["params"]),
        "peak_lr": group["initial_lr"],
        "last_lr": group["lr"],
        "weight_decay": group["weight_decay"],
        **more,
    }


def augment(trainer: Trainer) -> dict[str, Any]:
    """What the views of the loader and the mixer do, defaults left out."""
    dataset: Any = trainer.loader.dataset
    views = [*getattr(dataset, "views", ()), getattr(dataset, "view", None)]
    found: dict[str, Any] = next(
        (view.augment.model_dump(exclude_defaults=True) for view in views if view is not None), {}
    )
    mixing = {type(way).__name__.lower(): way.alpha for way in trainer.mix.ways}
    return {key: value for key, value in found.items() if key not in ("mixup", "cutmix")} | mixing


def dropouts(module: nn.Module) -> list[float]:
    """The distinct dropout probabilities in use, sorted."""
    return sorted({m.p for m in module.modules() if isinstance(m, nn.Dropout) and m.p > 0})


def label_smoothing(loss: Callable[[Tensor, Tensor], Tensor], classes: int, table: TrainTable) -> float:
    """Found by asking the loss, where it is cross-entropy: log Σ exp z - q·z at z = (1, 0, …) gives the target's q."""
    if table.loss not in ("auto", "cross-entropy") or table.class_weights != "none":
        return table.label_smoothing
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits[0, 0] = 1.0
    try:
        value = float(loss(logits, torch.zeros(1, dtype=torch.int64)))
    except (RuntimeError, ValueError, IndexError):  # a loss of several labels or of a number
        return table.label_smoothing
    share = math.log(math.e + classes - 1) - value
    return round((1 - share) * classes / (classes - 1), 9) + 0.0


def compare(applied: dict[str, Any], table: TrainTable) -> None:
    """TlcompileError naming each value of the settled `table` that was not applied."""
    cut = table.early_stopping > 0 and applied["epochs"] < table.epochs
    expected: dict[str, tuple[Any, Any]] = {
        "optimizer": (table.optimizer, applied["optimizer"]),
        "batch_size": (table.batch_size, applied["batch_size"]),
        "accumulate": (table.accumulate, applied["accumulate"]),
        "label_smoothing": (table.label_smoothing, applied["label_smoothing"]),
        "schedule": (table.schedule, applied["schedule"]["name"]),
        "clip_norm": (table.clip_norm, applied["clip_norm"]),
        "augment": (table.augment.model_dump(exclude_defaults=True), applied["augment"]),
    }
    if not cut:
        expected["epochs"] = (table.epochs, applied["epochs"])
        expected |= _schedule(applied, table)
    for group in applied["groups"]:
        expected |= _groups(group, table)
    lost = [
        Problem(f"train.{name}", f"the recipe says {asked}, training applied {found}")
        for name, (asked, found) in expected.items()
        if asked != found and not _close(asked, found)
    ]
    if lost:
        raise TlcompileError(*lost)


def _close(asked: Any, found: Any) -> bool:
    """A norm is measured in fp32 and cut with a small epsilon; everything else is exact to more digits."""
    return isinstance(asked, float) and isinstance(found, float) and math.isclose(asked, found, rel_tol=1e-4)


def _schedule(applied: dict[str, Any], table: TrainTable) -> dict[str, tuple[Any, Any]]:
    """The highest and the last factor that the steps should have had."""
    steps, schedule = applied["steps"], applied["schedule"]
    if table.schedule == "plateau":
        return {}
    factors = [schedules.factor(table, step, steps, table.epochs) for step in range(steps)]
    return {
        "lr (highest share of the peak)": (max(factors), schedule["highest_factor"]),
        "schedule (last share of the peak)": (factors[-1], schedule["last_factor"]),
    }


def _groups(group: dict[str, Any], table: TrainTable) -> dict[str, tuple[Any, Any]]:
    """Rate, decay and moments that a group should have; its name ends in `_x10` where its rate is ten times `lr`."""
    name = group["name"]
    factor = float(name.rpartition("_x")[2]) if "_x" in name else 1.0
    found: dict[str, tuple[Any, Any]] = {
        f"lr of {name}": (optim.lr(table) * factor, group["peak_lr"]),
        f"weight_decay of {name}": (0.0 if "no_decay" in name else optim.weight_decay(table), group["weight_decay"]),
    }
    cycled = table.schedule == "one-cycle"
    if "betas" in group and not (cycled and table.betas == "auto"):
        found[f"betas of {name}"] = (list(optim.betas(table)), group["betas"])
    if group.get("momentum") and not (cycled and table.momentum == "auto"):
        found[f"momentum of {name}"] = (optim.momentum(table), group["momentum"])
    return found
