"""Layers in other sizes than a network's config says, as pruning leaves them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def adopt(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the layers of `module` the shapes of their tensors in `state`."""
    for name, layer in module.named_modules():
        weight = state.get(f"{name}.weight")
        own = getattr(layer, "weight", None)
        if weight is None or own is None or weight.shape == own.shape:
            continue
        raise NotImplementedError(name)
