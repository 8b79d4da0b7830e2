"""The hyper-parameters as they were really applied: read back from optimizer, schedule, loss, loader and network.

What the recipe says is not asked here. `lost.py` holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tlcompile import tasks
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import choosing, machine, optim
from tlcompile.train.depth import blocks, inside
from tlcompile.train.dress import KeepZeros
from tlcompile.train.fake_quant import Rounded

if TYPE_CHECKING:
    from tlcompile.train.loop import Trainer

_CLASS_NAMES = {"MuonAdamW": "muon", "AdamWScheduleFree": "schedulefree"}
_PER_GROUP = ("betas", "eps", "momentum", "nesterov", "fused")
LOSS_KEYS = {"label_smoothing": 0.0, "focal_gamma": 2.0, "huber_delta": 1.0, "class_weights": "none"}
"""Keys of the loss with what they are where a recipe says nothing."""


def read_back(trainer: Trainer, kept: str) -> dict[str, Any]:
    """What the finished run can say of itself. To be called before LoRA is folded in and the dress is taken off."""
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    kind = type(inner).__name__
    return {
        "optimizer": _CLASS_NAMES.get(kind, kind.lower()),
        "groups": [_group(g) for g in inner.param_groups],
        "schedule": {"name": trainer.schedule.table.schedule, **trainer.schedule.applied()},
        "weights": kept,
        "keep": trainer.choice.kept,
        "epochs_since_best": choosing.waits(trainer.history),
        "gradients_watched": trainer.gradients.calls,
        "average": {"ema_decay": trainer.average.decay, "states": trainer.average.count},
        "epochs": len(trainer.history),
        "steps": trainer.schedule.done,
        "loss": loss(trainer),
        "l1_penalty": trainer.history[-1].get("l1_penalty"),
        "clip_norm": trainer.clipping.applied(),
        **selected(trainer),
        **fed(trainer),
        **running(trainer),
        "dropout": dropouts(trainer.network.module),
        "drop_path": drop_paths(trainer.network.module),
        "seed": trainer.job.seed,
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


def selected(trainer: Trainer) -> dict[str, Any]:
    """What was trained and at which rates: from `requires_grad`, the optimizer's groups and the norms' statistics."""
    network = trainer.network
    named = dict(network.module.named_parameters())
    own = {name: p for name, p in named.items() if ".lora_" not in name}
    body = [prefixes for prefixes in blocks(network) if not inside(prefixes[0], network.head)]
    opened = [prefixes for prefixes in body if any(p.requires_grad and inside(n, prefixes) for n, p in own.items())]
    peaks = {id(p): g["initial_lr"] for g in trainer.optimizer.param_groups for p in g["params"]}

    def rate(prefixes: tuple[str, ...]) -> float | None:
        """Share of the peak rate that the first parameter below `prefixes` learns at."""
        found = (peaks[id(p)] for name, p in named.items() if id(p) in peaks and inside(name, prefixes))
        return next((peak / optim.lr(trainer.table) for peak in found), None)

    return {
        "blocks": len(body),
        "blocks_that_can_learn": sum(any(inside(n, prefixes) for n in trainer.learnable) for prefixes in body),
        "trained_blocks": len(opened),
        "trainable_parameters": trainer.history[-1]["trainable_parameters"],
        "trainable_parameters_at_first": trainer.history[0]["trainable_parameters"],
        "parameters": sum(p.numel() for p in own.values()),
        "head_lr_scale": rate(network.head),
        "layer_decay": rate(body[-1]) if body else None,
        "lora": _lora(network.module),
        "batch_norms": _norms(trainer),
        "head_start_accuracy": trainer.head_start_accuracy(),
        "keep_zeros": sum(isinstance(m, KeepZeros) for m in network.module.modules()),
        "rounded_weights": sum(isinstance(m, Rounded) for m in network.module.modules()),
    }


def _lora(module: nn.Module) -> dict[str, Any] | None:
    from peft.tuners.lora import LoraLayer

    layers = [m for m in module.modules() if isinstance(m, LoraLayer)]
    if not layers:
        return None
    (rank,), (alpha,) = set(layers[0].r.values()), set(layers[0].lora_alpha.values())
    return {"rank": rank, "alpha": alpha, "layers": len(layers)}


def _norms(trainer: Trainer) -> dict[str, int]:
    """Norms whose running means moved in training, and those that kept theirs."""
    now = running_means(trainer.network.module)
    moved = sum(not torch.equal(mean.cpu(), trainer.first_means[name]) for name, mean in now.items())
    return {"learnt": moved, "kept": len(now) - moved}


def running_means(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in module.named_buffers() if name.endswith("running_mean")}


def fed(trainer: Trainer) -> dict[str, Any]:
    """What the loader hands over, read from it and from the views that it holds; defaults left out of `augment`."""
    loader: Any = trainer.loader
    views = [v for v in (*getattr(loader.dataset, "views", ()), getattr(loader.dataset, "view", None)) if v is not None]
    augment: dict[str, Any] = views[0].augment.model_dump(exclude_defaults=True) if views else {}
    sizes = [view.size for view in views if hasattr(view, "size")]
    return {
        "batch_size": loader.total_batch_size,
        "accumulate": trainer.accelerator.gradient_accumulation_steps,
        "image_size": sizes[-1] if sizes else None,
        "image_size_start": sizes[0] if sizes else None,
        "augment": {k: v for k, v in augment.items() if k not in ("mixup", "cutmix")} | trainer.mix.alphas,
    }


def running(trainer: Trainer) -> dict[str, Any]:
    accelerator, module = trainer.accelerator, trainer.network.module
    return {
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if accelerator.device.type == "cuda" else None,
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "channels_last": machine.is_channels_last(module),
        "compile": any(type(m).__name__ == "OptimizedModule" for m in (trainer.module, *trainer.module.children())),
        "gradient_checkpointing": machine.is_checkpointed(module),
    }


def dropouts(module: nn.Module) -> list[float]:
    """The distinct dropout probabilities in use, sorted; timm's networks keep that of the head as a number."""
    found = {float(m.p) for m in module.modules() if isinstance(m, nn.Dropout)}
    return sorted(p for p in found | {_number(module, "drop_rate")} if p > 0)


def drop_paths(module: nn.Module) -> float:
    """The largest probability with which a block is left out, in timm's layers and torchvision's."""
    from torchvision.ops import StochasticDepth

    depths = [_number(m, "p") for m in module.modules() if isinstance(m, StochasticDepth)]
    return max([0.0, *depths, *(_number(m, "drop_prob") for m in module.modules() if type(m).__name__ == "DropPath")])


def _number(module: nn.Module, name: str) -> float:
    found = getattr(module, name, 0.0)
    return float(found) if isinstance(found, int | float) else 0.0


def loss(trainer: Trainer) -> dict[str, Any]:
    """Found by asking the loss for its value on fixed answers: whether it is the one named, and which keys move it."""
    table, task = trainer.table, trainer.task
    name, outputs = tasks.loss_name(table, task), max(1, len(trainer.job.classes))
    logits, targets = _probe(task.LABELS, outputs)

    def same(other: TrainTable) -> bool:
        value = float(task.loss(name, other, trainer.counts)(logits, targets))
        return math.isclose(value, float(trainer.loss(logits, targets)), rel_tol=1e-9)

    found: dict[str, Any] = {
        "name": name if same(table) else "another",
        "keys": [key for key, plain in LOSS_KEYS.items() if not same(table.model_copy(update={key: plain}))],
    }
    if name == "cross-entropy" and table.class_weights == "none":
        found["label_smoothing"] = _smoothing(trainer.loss, outputs)
    return found


def _probe(labels: str, outputs: int) -> tuple[Tensor, Tensor]:
    """Answers and targets, float64, which every key of a loss counts in another way."""
    if labels == "number":
        return torch.tensor([[0.1], [3.0], [-9.0]], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    logits = torch.randn(2 * outputs, outputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = torch.arange(2 * outputs) % outputs
    return logits, classes if labels == "class" else nn.functional.one_hot(classes, outputs).double()


def _smoothing(loss: Callable[[Tensor, Tensor], Tensor], classes: int) -> float:
    """Of cross-entropy: log Σ exp z - q·z at z = (1, 0, …) gives the share q of the target."""
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits[0, 0] = 1.0
    share = math.log(math.e + classes - 1) - float(loss(logits, torch.zeros(1, dtype=torch.int64)))
    return round((1 - share) * classes / (classes - 1), 9) + 0.0
