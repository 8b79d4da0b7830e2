"""Low-rank updates of linear and convolution layers through peft: injected, trained, folded in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from tlcompile.errors import Problem, RecipeError, nearest
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import LoraTable
from tlcompile.train.depth import inside

FUSED = ("qkv", "in_proj", "c_attn", "Wqkv")
ATTENTION = (*FUSED, "query", "value", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")
"""Projections of attention in timm and transformers: those that are fused, or query and value (LoRA, section 7.1)."""
SHOWN = 12
"""So many names of layers are listed in an error."""


def inject(network: Network, table: LoraTable) -> None:
    """Freeze all but the head and add low-rank updates, at first zero, to the layers that `table` names.

    RecipeError where a name is that of no layer, or none is named and there is no attention.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = _layers(network)
    chosen = _chosen(layers, table)
    config = LoraConfig(
        r=table.rank,
        lora_alpha=table.alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=table.dropout,
        target_modules="|".join(re.escape(name) for name in chosen),  # a text is matched whole, a list by its ends
        fan_in_fan_out=isinstance(layers[chosen[0]], Conv1D),
    )
    inject_adapter_in_model(config, network.module)
    for name, parameter in network.module.named_parameters():
        if inside(name, network.head):
            parameter.requires_grad = True


def merge(module: nn.Module) -> None:
    """Put plain layers with the updates folded in where `inject` put others."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = {name: m for name, m in module.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, layer in wrapped.items():
        layer.merge(safe_merge=True)
        module.set_submodule(name, layer.get_base_layer())
    if wrapped:
        del module.peft_config


def _layers(network: Network) -> dict[str, nn.Module]:
    """Linear and convolution layers of the body whose updates can be merged.

    Not in grouped convolutions, and not inside torch's own attention, which never calls its layers.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, Conv1D)
    own = [name for name, m in network.module.named_modules() if isinstance(m, nn.MultiheadAttention)]
    named = network.module.named_modules()
    found = {n: m for n, m in named if isinstance(m, kinds) and not inside(n, (*own, *network.head))}
    return {n: m for n, m in found.items() if getattr(m, "groups", 1) == 1}


def _chosen(layers: dict[str, nn.Module], table: LoraTable) -> list[str]:
    """Full names of the layers that are meant: a name of `table` is the end of theirs, or all of it."""
    known = _short_names(list(layers))
    if not table.layers:
        found = _ending(list(layers), ATTENTION)
        if not found:
            what = f"this network has no layers of attention to adapt; name some of its layers: {_shown(known)}"
            raise RecipeError(Problem("train.lora.layers", what))
        return found
    problems = [
        Problem("train.lora.layers", f"no linear layer or ungrouped convolution '{name}', only {_shown(known)}", near)
        for name in table.layers
        if not _ending(list(layers), (name,))
        for near in [nearest(name, known)]
    ]
    if problems:
        raise RecipeError(*problems)
    return _ending(list(layers), table.layers)


def _ending(names: Sequence[str], ends: Sequence[str]) -> list[str]:
    return [name for name in names if any(name == end or name.endswith(f".{end}") for end in ends)]


def _short_names(names: Sequence[str]) -> list[str]:
    """What layers are called without the blocks they stand in: `qkv`, `mlp.0`; sorted by how often that occurs."""
    found: dict[str, int] = {}
    for name in names:
        match = re.search(r"[^.]*[^.\d][^.]*(\.\d+)*$", name)
        short = match[0] if match else name
        found[short] = found.get(short, 0) + 1
    return sorted(found, key=lambda short: -found[short])


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:SHOWN]) or "none"
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
