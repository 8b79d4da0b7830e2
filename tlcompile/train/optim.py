"""Parameter groups and the optimizer.

A group has one learning rate and one weight decay. Biases, norms and what a network itself asks to be left alone
(position embeddings of a ViT) are not decayed, nor do they count for L1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tlcompile.recipe.train_table import TrainTable
from tlcompile.train.lion import Lion
from tlcompile.train.muon import MuonAdamW

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def lr(table: TrainTable) -> float:
    """The peak rate: that of the recipe, else one that suits the optimizer. ValueError while it is to be found."""
    if table.lr == "find":
        raise ValueError("the learning rate is still to be found")
    return {"sgd": 1e-2, "lion": 1e-4}.get(table.optimizer, 1e-3) if table.lr == "auto" else table.lr


def weight_decay(table: TrainTable) -> float:
    """That of the recipe, else 0.05 where it shrinks weights and 5e-4 where it is added to the gradient."""
    if table.weight_decay != "auto":
        return table.weight_decay
    return 5e-4 if table.optimizer in ("sgd", "adam") else 0.05


def betas(table: TrainTable) -> tuple[float, float]:
    """Those of the recipe, else the optimizer's own (Lion: Chen et al. 2023, section 4.1)."""
    if table.betas != "auto":
        return table.betas
    return (0.9, 0.99) if table.optimizer == "lion" else (0.9, 0.999)


def momentum(table: TrainTable) -> float:
    """That of the recipe, else the optimizer's own."""
    if table.momentum != "auto":
        return table.momentum
    return 0.95 if table.optimizer == "muon" else 0.9


def decayed(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of all weights that decay: no biases, no norms, nothing that the network excludes."""
    found = {}
    for prefix, part in module.named_modules():
        if isinstance(part, NORMS):
            continue
        for name, parameter in part.named_parameters(prefix, recurse=False):
            if parameter.ndim > 1 and not name.endswith("bias"):
                found[name] = parameter
    for name in _excluded(module):
        found.pop(name, None)
    return found


def _excluded(module: nn.Module) -> list[str]:
    """Parameters that a network of timm says must not decay."""
    names = []
    for prefix, part in module.named_modules():
        ask = getattr(part, "no_weight_decay", None)
        if callable(ask):
            names += [f"{prefix}.{name}" if prefix else name for name in ask()]
    return names


def _matrices(module: nn.Module, head: tuple[str, ...]) -> set[str]:
    """Names of the body's weights that are linear maps: no head, no embedding, no depthwise or grouped convolution."""
    others = {
        name
        for prefix, part in module.named_modules()
        if isinstance(part, nn.Embedding) or getattr(part, "groups", 1) != 1
        for name, _ in part.named_parameters(prefix, recurse=False)
    }
    return {
        name
        for name, weight in decayed(module).items()
        if name not in others and not _in_head(name, head) and len(weight) > 1
    }


def _in_head(name: str, head: tuple[str, ...]) -> bool:
    return name.startswith(tuple(f"{h}." for h in head))


def groups(
    module: nn.Module, head: tuple[str, ...], table: TrainTable, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """All parameters that are or will be trained, by {body, head} × {decayed, not} × {factor of the rate}.

    `rates` has a parameter's factor of the peak rate; 1 where it says nothing. For Muon each group also says whether
    its parameters are `matrices`. Names: `body_decay`, `head_no_decay_x10` (ten times the rate), `body_decay_matrices`.
    """
    peak, strength = lr(table), weight_decay(table)
    with_decay = decayed(module)
    matrices = _matrices(module, head) if table.optimizer == "muon" else set()
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not (parameter.requires_grad or table.trainable == "gradual"):
            continue
        factor = rates.get(name, 1.0)
        label = f"{'head' if _in_head(name, head) else 'body'}_{'decay' if name in with_decay else 'no_decay'}"
        label += "_matrices" if name in matrices else ""
        label += f"_x{factor:.6g}" if factor != 1 else ""
        group = found.setdefault(label, {"name": label, "params": [], "lr": peak * factor})
        group["params"].append(parameter)
        group["weight_decay"] = strength if name in with_decay else 0.0
        if table.optimizer == "muon":
            group["matrices"] = name in matrices
    return list(found.values())


def optimizer(
    module: nn.Module, head: tuple[str, ...], table: TrainTable, rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """The optimizer that `table` names, over `groups`."""
    made = groups(module, head, table, rates)
    peak, fused = lr(table), table.fused or None
    if table.optimizer == "adamw":
        return torch.optim.AdamW(made, peak, betas(table), table.eps, fused=fused)
    if table.optimizer == "adam":
        return torch.optim.Adam(made, peak, betas(table), table.eps, fused=fused)
    if table.optimizer == "sgd":
        strength = momentum(table)
        return torch.optim.SGD(made, peak, strength, nesterov=table.nesterov and strength > 0, fused=fused)
    if table.optimizer == "lion":
        return Lion(made, peak, betas(table))
    if table.optimizer == "muon":
        return MuonAdamW(made, peak, betas(table), table.eps, momentum(table), table.nesterov, table.fused)
    from schedulefree import AdamWScheduleFree

    free: torch.optim.Optimizer = AdamWScheduleFree(made, peak, betas(table), table.eps)
    to_train(free)
    return free


def to_train(optimizer: torch.optim.Optimizer) -> None:
    """Before training steps: Schedule-Free puts the weights where gradients are taken. Nothing for other optimizers."""
    _switch(optimizer, "train")


def to_eval(optimizer: torch.optim.Optimizer) -> None:
    """Before the network is judged or kept: Schedule-Free puts its average into the weights (Defazio et al., "The Road
    Less Scheduled", 2024, section 2). Batch norms then need `averaging.recalibrate`. Nothing for other optimizers."""
    _switch(optimizer, "eval")


def _switch(optimizer: torch.optim.Optimizer, mode: str) -> None:
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps
    switch = getattr(inner, mode, None)
    if switch is not None:
        switch()


def penalty(module: nn.Module, table: TrainTable) -> Tensor | None:
    """L1 of the trained weights times `table.l1`, a scalar to be added to the loss; None where it is 0."""
    if not table.l1:
        return None
    weights = dict.fromkeys(w for w in decayed(module).values() if w.requires_grad)  # a shared one counts once
    return table.l1 * torch.stack([w.abs().sum() for w in weights]).sum()
