"""What can be cut from a network: its axes, each a number of channels, of FFN units or of attention heads.

A channel that one layer makes is read by others and tied to more by sums and norms. Torch-Pruning's dependency graph
(G. Fang et al., "DepGraph", CVPR 2023) finds which places of which tensors go together; heads are found by the names
that the libraries give their projections. Never cut: the network's answers, its input, widths over which a layer norm
takes its mean (the residual stream of a transformer), and channels of grouped convolutions that are not depthwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tlcompile.artifacts import ImageSpec
from tlcompile.models import _structure
from tlcompile.models._network import Network

ATTENTIONS = (
    (("qkv",), "proj"),  # timm
    (("query", "key", "value"), "../output.dense"),  # BERT and its relatives
    (("q_lin", "k_lin", "v_lin"), "out_lin"),  # DistilBERT
)
"""The layers of an attention that make its heads, and the one that reads them, `..` being the module around it."""

NEVER = (nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.MultiheadAttention, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class Member:
    """Dimension `dim` of a tensor. Channel i of the axis is at `places[i]`, int64 [size, places a channel].

    `side`: these places make the channel, read it, or scale what is made.
    """

    tensor: str
    dim: int
    places: Tensor
    side: Literal["makes", "reads", "scales"]


@dataclass(frozen=True)
class Axis:
    """`size` channels or heads that can go one by one; `name` is the layer that makes them."""

    name: str
    kind: Literal["channels", "heads"]
    size: int
    members: tuple[Member, ...]


Kept = Mapping[str, Tensor]  # axis name -> int64 [kept], ascending


def example(network: Network) -> tuple[Tensor, ...]:
    """One input of the network."""
    spec = network.spec
    if isinstance(spec, ImageSpec):
        pixels: Tensor = torch.randn(1, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
        return (pixels,)
    ids = torch.ones(1, min(32, spec.max_length), dtype=torch.int64)
    return ids, torch.ones_like(ids)


def axes(network: Network, heads: bool = True) -> list[Axis]:
    """The axes of `network`, in the order in which it is run."""
    from torch_pruning import DependencyGraph

    module = network.module.eval()
    learns = [p.requires_grad for p in module.parameters()]
    module.requires_grad_(True)  # the graph is read from autograd's
    graph = DependencyGraph().build_dependency(module, example(network), lambda m, x: m(*x), verbose=False)
    kinds = [nn.modules.conv._ConvNd, nn.Linear]
    groups = list(graph.get_all_groups(ignored_layers=_answers(network), root_module_types=kinds))
    for parameter, learnt in zip(module.parameters(), learns, strict=True):
        parameter.requires_grad_(learnt)
    names = {value: name for name, value in [*module.named_modules(), *module.named_parameters()]}
    inside = {name for name, layer in module.named_modules() if any(hasattr(layer, k) for k in _structure.HEADS)}
    found = [_axis(group, names, inside) for group in groups]
    return [axis for axis in found if axis] + (_attentions(module) if heads else [])


def cut(state: Mapping[str, Tensor], axes: Iterable[Axis], kept: Kept) -> dict[str, Tensor]:
    """`state` without what is not kept; axes that `kept` does not name stay whole."""
    gone: dict[tuple[str, int], list[Tensor]] = {}
    for axis in axes:
        if axis.name in kept:
            lost = torch.ones(axis.size, dtype=torch.bool).index_fill_(0, kept[axis.name], False)
            for member in axis.members:
                gone.setdefault((member.tensor, member.dim), []).append(member.places[lost].flatten())
    found = dict(state)
    for (name, dim), places in gone.items():
        stays = torch.ones(found[name].shape[dim], dtype=torch.bool).index_fill_(0, torch.cat(places), False)
        found[name] = found[name].index_select(dim, stays.nonzero().flatten()).contiguous()
    return found


def silenced(state: Mapping[str, Tensor], axes: Iterable[Axis], kept: Kept) -> dict[str, Tensor]:
    """`state` in its old shapes, with zeros where `cut` cuts: it must answer what the cut network answers."""
    found = {name: value.clone() for name, value in state.items()}
    for axis in axes:
        if axis.name in kept:
            lost = torch.ones(axis.size, dtype=torch.bool).index_fill_(0, kept[axis.name], False)
            for member in axis.members:
                if not member.tensor.endswith(("running_mean", "running_var")):
                    found[member.tensor].index_fill_(member.dim, member.places[lost].flatten(), 0)
    return found


def _answers(network: Network) -> list[nn.Module]:
    """The layers that make the logits."""
    heads = [network.module.get_submodule(name) for name in network.head]
    linear = [[m for m in head.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)] for head in heads]
    return [layers[-1] for layers in linear if layers]


def _axis(group: Any, names: Mapping[Any, str], inside: set[str]) -> Axis | None:
    """The axis of a dependency group; None where it can't be cut."""
    members: list[Member] = []
    size = len(group[0].idxs)
    for item in group:
        target, handler = item.dep.target.module, item.dep.handler.__name__
        if target not in names:
            if type(target).__name__ == "_OutputOp":
                return None
            continue  # an operator without tensors
        layer, name = target, names[target]
        if isinstance(layer, NEVER) or _is_special(layer):
            return None
        makes = not handler.startswith("prune_in") and not handler.endswith("_in_channels")
        if isinstance(layer, nn.Linear) and makes and name.rpartition(".")[0] in inside:
            return None  # a projection of an attention
        places = _places(item.idxs, item.root_idxs, size)
        if places is None:
            return None
        members += _members(layer, name, places, makes)
    return Axis(names[group[0].dep.target.module], "channels", size, tuple(members))


def _is_special(layer: Any) -> bool:
    """A convolution that is neither dense nor depthwise, or a product with tensors beside its weight and bias."""
    if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        return False
    more = {name for name, _ in layer.named_parameters()} - {"weight", "bias"}
    return bool(more) or (isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1 and not _is_depthwise(layer))


def _is_depthwise(layer: nn.modules.conv._ConvNd) -> bool:
    return layer.groups == layer.in_channels == layer.out_channels > 1


def _places(idxs: Sequence[int], roots: Sequence[int | None], size: int) -> Tensor | None:
    """Where each channel is; None where not all of them are, or not equally often."""
    found: list[list[int]] = [[] for _ in range(size)]
    for place, root in zip(idxs, roots, strict=True):
        if root is None or root >= size:
            return None
        found[root].append(place)
    if not idxs or {len(places) for places in found} != {len(idxs) // size}:
        return None
    return torch.tensor(found)


def _members(layer: Any, name: str, places: Tensor, makes: bool) -> list[Member]:
    if isinstance(layer, nn.Parameter):
        wide = [d for d, n in enumerate(layer.shape) if n > 1]
        return [Member(name, wide[-1], places, "scales")] if wide else []
    if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and not _along(layer):
        if not makes:
            return [Member(f"{name}.weight", 1, places, "reads")]
        made = [Member(f"{name}.weight", 0, places, "makes")]
        return [*made, Member(f"{name}.bias", 0, places, "makes")] if layer.bias is not None else made
    own = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
    return [Member(f"{name}.{key}", 0, places, "scales") for key, value in own.items() if value.ndim]


def _along(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd) and _is_depthwise(layer)


def _attentions(module: nn.Module) -> list[Axis]:
    """The heads of every attention whose layers are known and which has no tensors of its own beside them."""
    found = []
    for name, layer in module.named_modules():
        size = _structure.head_size(layer)
        for makers, reader in ATTENTIONS if size else ():
            reads = f"{name.rpartition('.')[0]}.{reader[3:]}" if reader.startswith("../") else f"{name}.{reader}"
            if all(isinstance(getattr(layer, m, None), nn.Linear) for m in makers) and _is_plain(layer, makers, reader):
                found.append(_heads(module, name, [f"{name}.{m}" for m in makers], reads, size))
    return found


def _is_plain(layer: nn.Module, makers: Sequence[str], reader: str) -> bool:
    known = {*makers, reader}
    others = [child for key, child in layer.named_children() if key not in known]
    per_head = ("q_norm", "k_norm")
    norms = [getattr(layer, key, None) for key in per_head]
    alone = all(child in norms or not any(True for _ in child.parameters()) for child in others)
    return alone and not any(True for _ in layer.parameters(recurse=False))


def _heads(module: nn.Module, name: str, makers: Sequence[str], reader: str, size: int) -> Axis:
    width = _linear(module, reader).in_features
    heads = torch.arange(width).view(-1, size)
    members = []
    for maker in makers:
        linear = _linear(module, maker)
        places = torch.cat([heads + start for start in range(0, linear.out_features, width)], 1)
        members += [Member(f"{maker}.{key}", 0, places, "makes") for key, _ in linear.named_parameters()]
    members.append(Member(f"{reader}.weight", 1, heads, "reads"))
    return Axis(name, "heads", len(heads), tuple(members))


def _linear(module: nn.Module, name: str) -> nn.Linear:
    found = module.get_submodule(name)
    assert isinstance(found, nn.Linear), name
    return found
