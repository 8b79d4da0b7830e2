"""Layers in other sizes than a network's config says, as pruning leaves them: the tensors themselves say which.

A layer takes the shape of its tensors, a depthwise convolution as many groups as it has channels, an attention as many
heads as fit into its projections (the size of a head never changes), and a block none of whose tensors are there lets
its input through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tlcompile.errors import Problem, TlcompileError

HEADS = ("num_heads", "num_attention_heads", "n_heads")
"""What the libraries call the number of heads of an attention, and below the size of one and the width of all."""
HEAD_SIZE = ("head_dim", "attention_head_size")
ALL_HEADS = ("attn_dim", "all_head_size")
PROJECTIONS = {"qkv": 3, "query": 1, "q_lin": 1}
"""The layer of an attention whose outputs are its heads, with how many vectors it makes of each."""


class Removed(nn.Module):
    """In the place of a block that was left out: its first input is its output."""

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        return x


def adopt(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the layers of `module` the shapes of their tensors in `state`, in place; TlcompileError where they can't."""
    _remove_blocks(module, state)
    for name, layer in module.named_modules():
        _count_heads(layer, state, name)
    wrong = []
    for name, layer in module.named_modules():
        own = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
        found = {key: state[_join(name, key)] for key in own if _join(name, key) in state}
        other = [key for key, value in found.items() if value.shape != own[key].shape]
        if other and not _resize(layer, found):
            shapes = f"{list(own[other[0]].shape)} here, {list(found[other[0]].shape)} there"
            wrong.append(Problem(_join(name, other[0]), f"a {type(layer).__name__} can't change its shape: {shapes}"))
    if wrong:
        raise TlcompileError(*wrong)


def removable(module: nn.Module) -> dict[str, nn.Module]:
    """The blocks by name: modules of several layers that stand in a row, alone or with others of their kind."""
    found = {}
    for name, row in module.named_modules():
        if isinstance(row, nn.Sequential | nn.ModuleList):
            kinds = [type(block) for block in row if not isinstance(block, Removed)]
            for key, block in row.named_children():
                alike = kinds.count(type(block)) > 1 or len(set(kinds)) == 1
                if alike and sum(1 for p in block.parameters() if p.ndim > 1) > 1:
                    found[_join(name, key)] = block
    return found


def remove(module: nn.Module, name: str) -> None:
    """Put nothing in the place of the block `name`."""
    parent, _, key = name.rpartition(".")
    setattr(module.get_submodule(parent), key, Removed())


def head_size(layer: nn.Module) -> int:
    """Of an attention whose heads can be counted anew; 0 of any other layer."""
    counted = any(isinstance(getattr(layer, name, None), int) for name in HEADS)
    sizes = [size for name in HEAD_SIZE if isinstance(size := getattr(layer, name, None), int)]
    return sizes[0] if counted and sizes and _projection(layer) else 0


def _projection(layer: nn.Module) -> str:
    return next((name for name in PROJECTIONS if isinstance(getattr(layer, name, None), nn.Linear)), "")


def _remove_blocks(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    there = {name.rpartition(".")[0] for name in state}
    there |= {name[:i] for name in there for i, letter in enumerate(name) if letter == "."}
    for name in removable(module):
        if name not in there:
            remove(module, name)


def _count_heads(layer: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Set the number of heads to what the projection in `state` has."""
    size, projection = head_size(layer), _projection(layer)
    weight = state.get(_join(name, f"{projection}.weight"))
    if not size or weight is None:
        return
    heads = len(weight) // (size * PROJECTIONS[projection])
    for keys, value in ((HEADS, heads), (ALL_HEADS, heads * size)):
        for key in keys:
            if isinstance(getattr(layer, key, None), int):
                setattr(layer, key, value)


def _resize(layer: nn.Module, found: Mapping[str, Tensor]) -> bool:
    """Whether `layer` could take the shapes of `found`, its own tensors by name."""
    weight = found.get("weight")
    if weight is None or not _describe(layer, weight):
        return False
    for key, value in found.items():
        own = getattr(layer, key)
        new = torch.zeros(value.shape, dtype=own.dtype, device=own.device)
        setattr(layer, key, nn.Parameter(new, own.requires_grad) if isinstance(own, nn.Parameter) else new)
    return True


def _describe(layer: nn.Module, weight: Tensor) -> bool:
    """Set the numbers that a layer keeps beside its tensors; False where it is of a kind unknown here."""
    shape = tuple(weight.shape)
    if isinstance(layer, nn.modules.conv._ConvNd) and not layer.transposed and len(shape) == layer.weight.ndim:
        if layer.groups == layer.in_channels and shape[1] == 1:
            layer.groups = shape[0] // (layer.out_channels // layer.groups)
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
        return shape[2:] == tuple(layer.weight.shape[2:])
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = shape[0]
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = shape
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = shape[0]
    else:
        return False
    return True


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
