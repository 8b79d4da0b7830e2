"""Whole blocks that go: residual blocks of a convolutional network, layers of a transformer.

One after another goes the block without which the loss on training examples rises least for the products that it
costs. The loss is measured, not estimated: there are few blocks (X. Men et al., "ShortGPT", 2024, section 4, compares
such measures). Only blocks whose output has the shape of their input can go.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tlcompile import progress
from tlcompile.compress._axes import example
from tlcompile.compress._importance import Batches, Loss
from tlcompile.errors import Problem, RecipeError
from tlcompile.models import _structure
from tlcompile.models._network import Network


def without_blocks(network: Network, count: int, loss: Loss, batches: Batches) -> tuple[Network, list[str]]:
    """(a copy of `network` that lacks `count` blocks, their names). RecipeError where it has no more than these."""
    smaller = replace(network, module=copy.deepcopy(network.module).eval())
    gone: list[str] = []
    examples = list(batches) if count else []
    for _ in range(count):
        found = candidates(smaller)
        if len(found) < 2:
            what = f"{count} can't go: only {len(gone)} blocks of this network can be left out"
            raise RecipeError(Problem("compress.prune.blocks", what))
        before = _loss(smaller.module, loss, examples)
        rise = {name: _without(smaller.module, name, loss, examples) - before for name in found}
        cheapest = min(found, key=lambda name: (rise[name] / found[name], name))
        progress.say(f"  prune: block {cheapest} goes, the loss rises by {rise[cheapest]:.4f}")
        _structure.remove(smaller.module, cheapest)
        gone.append(cheapest)
    return smaller, gone


def candidates(network: Network) -> dict[str, int]:
    """Blocks whose output has the shape of their input, with the multiply-accumulates of one example."""
    blocks = _structure.removable(network.module)
    fits: dict[str, bool] = {}
    products: dict[str, int] = {}
    names = {layer: name for name, layer in network.module.named_modules()}

    def note_block(layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        same = isinstance(output, Tensor) and isinstance(inputs[0], Tensor) and inputs[0].shape == output.shape
        fits[names[layer]] = same

    def note_layer(layer: nn.Module, inputs: tuple[object, ...], output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        products[names[layer]] = output.numel() // len(weight) * weight.numel()

    hooks = [block.register_forward_hook(note_block) for block in blocks.values()]
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks += [m.register_forward_hook(note_layer) for m in network.module.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        network.module.eval()(*example(network))
    for hook in hooks:
        hook.remove()
    spent = {b: sum(n for layer, n in products.items() if layer.startswith(f"{b}.")) for b in blocks}
    fitting = [b for b in blocks if fits.get(b)]
    innermost = [b for b in fitting if not any(other.startswith(f"{b}.") for other in fitting)]
    return {block: max(1, spent[block]) for block in innermost}


def _without(module: nn.Module, name: str, loss: Loss, batches: Sequence[tuple[dict[str, Tensor], Tensor]]) -> float:
    parent, _, key = name.rpartition(".")
    row, block = module.get_submodule(parent), module.get_submodule(name)
    _structure.remove(module, name)
    found = _loss(module, loss, batches)
    setattr(row, key, block)
    return found


def _loss(module: nn.Module, loss: Loss, batches: Sequence[tuple[dict[str, Tensor], Tensor]]) -> float:
    with torch.inference_mode():
        sums = [float(loss(module(*inputs.values()), targets)) * len(targets) for inputs, targets in batches]
    return sum(sums) / sum(len(targets) for _, targets in batches)
