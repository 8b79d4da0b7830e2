"""What a network wears while it is trained, and takes off before it is kept.

    keep_zeros   names of layers: weights of theirs that are zero when training starts stay zero
    dialects     Q/DQ dialects of the targets: weights and activations are rounded as for those (fake_quant.py)

All of it lies in the layers of the network as parametrizations and small modules, so its state is in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tlcompile.models._network import Network
from tlcompile.train import fake_quant


def put_on(network: Network, keep_zeros: Sequence[str] = (), dialects: Sequence[str] = ()) -> None:
    for name in keep_zeros:
        layer = network.module.get_submodule(name)
        parametrize.register_parametrization(layer, "weight", KeepZeros(layer.get_parameter("weight")))
    if dialects:
        fake_quant.put_on(network, dialects)


def take_off(module: nn.Module) -> None:
    """Plain layers again. Their weights are those that the forward passes saw: masked, and rounded."""
    fake_quant.take_off(module)
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            for name in list(cast(nn.ModuleDict, layer.parametrizations)):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


class KeepZeros(nn.Module):
    """A weight whose zeros stay zero: they get no gradient and are not seen if they move."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", weight.detach() != 0)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.mask, weight, 0.0)
