"""What of a recipe did not reach the training: `applied.py` read back what ran, here the two are held together.

A value that got lost on the way (a key that nothing reads, a schedule that never stepped) fails the build.
"""

from __future__ import annotations

import math
from typing import Any

from tlcompile.errors import Problem, TlcompileError
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import machine, optim, schedules
from tlcompile.train.applied import LOSS_KEYS
from tlcompile.train.job import Job

Pairs = dict[str, tuple[Any, Any]]
"""What a key asks for and what was applied."""


def compare(applied: dict[str, Any], job: Job, table: TrainTable) -> None:
    """TlcompileError naming each value of `job` and its settled `table` that was not applied."""
    pairs = (
        _common(applied, table)
        | _chosen(applied, table)
        | _selected(applied, table)
        | _loss(applied, table)
        | _run(applied, table)
    )
    for group in applied["groups"]:
        pairs |= _group(group, table)
    pairs = {f"train.{key}": pair for key, pair in pairs.items()} | _model(applied, job)
    lost = [
        Problem(name, f"the recipe says {asked}, training applied {found}")
        for name, (asked, found) in pairs.items()
        if asked != found and not _close(asked, found)
    ]
    if lost:
        raise TlcompileError(*lost)


def _close(asked: Any, found: Any) -> bool:
    """A norm is measured in fp32 and cut with a small epsilon; everything else is exact to more digits."""
    return isinstance(asked, float) and isinstance(found, float) and math.isclose(asked, found, rel_tol=1e-4)


def _common(applied: dict[str, Any], table: TrainTable) -> Pairs:
    averaged = applied["average"]["states"]
    found: Pairs = {
        "optimizer": (table.optimizer, applied["optimizer"]),
        "batch_size": (table.batch_size, applied["batch_size"]),
        "accumulate": (table.accumulate, applied["accumulate"]),
        "clip_norm": (table.clip_norm, applied["clip_norm"]),
        "augment": (table.augment.model_dump(exclude_defaults=True), applied["augment"]),
        "l1": (table.l1 > 0, applied["l1_penalty"] is not None),
        "ema_decay": (table.ema_decay, applied["average"]["ema_decay"]),
        "schedule": (table.schedule, applied["schedule"]["name"]),
    }
    found |= {"ema_decay (steps averaged)": (applied["steps"], averaged)} if table.ema_decay else {}
    found |= {"average_last": (table.average_last, averaged)} if table.average_last else {}
    found |= {"image_size": (table.image_size, applied["image_size"])} if table.image_size else {}
    if table.image_size_start and table.epochs > 1:
        found["image_size_start"] = (table.image_size_start, applied["image_size_start"])
    if not (table.early_stopping and applied["epochs"] < table.epochs):
        found |= {"epochs": (table.epochs, applied["epochs"]), **_schedule(applied, table)}
    return found


def _chosen(applied: dict[str, Any], table: TrainTable) -> Pairs:
    """What was kept, what was watched, and whether the end came when it was due."""
    found: Pairs = {"keep": (table.keep, applied["keep"])}
    if table.monitor_gradients:
        found["monitor_gradients"] = (True, applied["gradients_watched"] > 0)
    if table.early_stopping:
        late = sum(wait >= table.early_stopping for wait in applied["epochs_since_best"][:-1])
        found["early_stopping (epochs after it was due)"] = (0, late)
    return found


def _schedule(applied: dict[str, Any], table: TrainTable) -> Pairs:
    """The highest and the last factor that the steps should have had."""
    steps, schedule = applied["steps"], applied["schedule"]
    if table.schedule == "plateau":
        return {}
    factors = [schedules.factor(table, step, steps, table.epochs) for step in range(steps)]
    return {
        "lr (highest share of the peak)": (max(factors), schedule["highest_factor"]),
        "schedule (last share of the peak)": (factors[-1], schedule["last_factor"]),
    }


def _selected(applied: dict[str, Any], table: TrainTable) -> Pairs:
    """What was trained, at which shares of the rate, with which statistics."""
    how = table.trainable
    opened = {"all": applied["blocks_that_can_learn"], "gradual": applied["blocks"]}
    asked = int(how.removeprefix("last:")) if how.startswith("last:") else opened.get(how, 0)
    first, last = applied["trainable_parameters_at_first"], applied["trainable_parameters"]
    found: Pairs = {
        "trainable (blocks)": (asked, applied["trained_blocks"]),
        "trainable (more and more)": (how == "gradual", first < last),
        "head_lr_scale": (table.head_lr_scale, applied["head_lr_scale"]),
        "head_start": (table.head_start, applied["head_start_accuracy"] is not None),
    }
    if applied["layer_decay"] is not None:
        found["layer_decay"] = (table.layer_decay, applied["layer_decay"])
    lora = applied["lora"] or {}
    for key in ("rank", "alpha") if how == "lora" else ():
        found[f"lora.{key}"] = (getattr(table.lora, key), lora.get(key))
    if table.freeze_norm:
        found["freeze_norm (norms that moved)"] = (0, applied["batch_norms"]["learnt"])
    return found


def _loss(applied: dict[str, Any], table: TrainTable) -> Pairs:
    """Keys of the loss that are not what they are by themselves must move it; balanced classes weigh the same."""
    loss = applied["loss"]
    asked = [key for key, plain in LOSS_KEYS.items() if getattr(table, key) != plain]
    asked = [key for key in asked if key != "class_weights" or key in loss["keys"] or _uneven(table)]
    found: Pairs = {key: (getattr(table, key), "nothing of it") for key in asked if key not in loss["keys"]}
    if loss["name"] == "another" or table.loss != "auto":
        found["loss"] = (table.loss, loss["name"])
    if "label_smoothing" in loss:
        found["label_smoothing"] = (table.label_smoothing, loss["label_smoothing"])
    return found


def _uneven(table: TrainTable) -> bool:
    return not isinstance(table.class_weights, str) and len(set(table.class_weights)) > 1


def _run(applied: dict[str, Any], table: TrainTable) -> Pairs:
    """How the machine was used. More processes than the recipe's come from `accelerate launch`."""
    found: Pairs = {
        "precision": (machine.precision(table.precision).replace("no", "fp32"), applied["precision"]),
        "compile": (table.compile, applied["compile"]),
        "gradient_checkpointing": (table.gradient_checkpointing, applied["gradient_checkpointing"]),
    }
    found |= {"processes": (table.processes, applied["processes"])} if table.processes > 1 else {}
    found |= {"tf32": (table.tf32, applied["tf32"])} if applied["tf32"] is not None else {}
    if table.channels_last and applied["channels_last"] is not None:
        found["channels_last"] = (True, applied["channels_last"])
    return found


def _group(group: dict[str, Any], table: TrainTable) -> Pairs:
    """Rate, decay and moments that a group should have; its name ends in `_x10` where its rate is ten times `lr`."""
    name = group["name"]
    factor = float(name.rpartition("_x")[2]) if "_x" in name else 1.0
    found: Pairs = {
        f"lr of {name}": (optim.lr(table) * factor, group["peak_lr"]),
        f"weight_decay of {name}": (0.0 if "no_decay" in name else optim.weight_decay(table), group["weight_decay"]),
    }
    cycled = table.schedule == "one-cycle"
    if "betas" in group and not (cycled and table.betas == "auto"):
        found[f"betas of {name}"] = (list(optim.betas(table)), group["betas"])
    if group.get("momentum") and not (cycled and table.momentum == "auto"):
        found[f"momentum of {name}"] = (optim.momentum(table), group["momentum"])
    if "eps" in group:
        found[f"eps of {name}"] = (table.eps, group["eps"])
    if group.get("momentum") and "nesterov" in group:
        found[f"nesterov of {name}"] = (table.nesterov, group["nesterov"])
    if "fused" in group and table.optimizer != "muon":
        found[f"fused of {name}"] = (table.fused, bool(group["fused"]))
    return found


def _model(applied: dict[str, Any], job: Job) -> Pairs:
    """What the network wore, and dropout that it was asked for. A head alone may stand behind all of that."""
    found: Pairs = {
        "dress.keep_zeros": (len(job.dress.get("keep_zeros", ())), applied["keep_zeros"]),
        "dress.dialects": (bool(job.dress.get("dialects")), applied["rounded_weights"] > 0),
    }
    if job.table.trainable == "head":
        return found
    for key in ("drop_rate", "dropout"):
        if asked := getattr(job.model.options, key, 0.0):
            found[f"model.{key}"] = (asked, asked if asked in applied["dropout"] else applied["dropout"])
    if asked := getattr(job.model.options, "drop_path_rate", 0.0):
        found["model.drop_path_rate"] = (asked, asked if applied["drop_path"] else "none")
    return found
