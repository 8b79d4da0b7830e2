"""How much each channel or head of a trained network matters.

magnitude    the L2 norm of the weights that make it (H. Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017,
             there with L1)
group_norm   the L2 norm of all weights that go with it (G. Fang et al., "DepGraph", CVPR 2023, section 3.3)
taylor       the square of the change of the loss, to first order, when it falls silent, over batches of training
             examples (P. Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8,
             with a gate behind each channel): the sum of weight × gradient over the weights that read it

Norms of different layers have different scales, so an axis's are divided by their sum: all axes weigh the same. Changes
of the loss need no such thing: they compare between layers, and between channels and heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from tlcompile import progress
from tlcompile.compress._axes import Axis, Member
from tlcompile.models._network import Network

Batches = Iterable[tuple[dict[str, Tensor], Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def scores(how: str, network: Network, axes: Sequence[Axis], loss: Loss, batches: Batches) -> dict[str, Tensor]:
    """float64 [size] for each axis."""
    if how == "taylor":
        return taylor(network, axes, loss, batches)
    return {axis.name: norm(network, axis, ("makes",) if how == "magnitude" else ("makes", "reads")) for axis in axes}


def norm(network: Network, axis: Axis, sides: Sequence[str]) -> Tensor:
    state = network.module.state_dict()
    squares = sum(_summed(state[m.tensor].double() ** 2, m) for m in axis.members if m.side in sides)
    found: Tensor = torch.as_tensor(squares).sqrt()
    return found / found.sum().clamp_min(1e-12)


def taylor(network: Network, axes: Sequence[Axis], loss: Loss, batches: Batches) -> dict[str, Tensor]:
    module = network.module.eval()
    parameters = dict(module.named_parameters())
    learns = {name: p.requires_grad for name, p in parameters.items()}
    module.requires_grad_(True)
    found = {axis.name: torch.zeros(axis.size, dtype=torch.float64) for axis in axes}
    for inputs, targets in batches:
        module.zero_grad(set_to_none=True)
        loss(module(*inputs.values()), targets).backward()
        for axis in axes:
            found[axis.name] += _change(axis, parameters) ** 2
    module.zero_grad(set_to_none=True)
    for name, parameter in parameters.items():
        parameter.requires_grad_(learns[name])
    return found


def _change(axis: Axis, parameters: dict[str, torch.nn.Parameter]) -> Tensor:
    """Of the loss, to first order, when each channel of `axis` falls silent: float64 [size]."""
    total = torch.zeros(axis.size, dtype=torch.float64)
    for member in axis.members:
        weight = parameters.get(member.tensor)
        if member.side == "reads" and weight is not None and weight.grad is not None:
            total += _summed((weight.detach() * weight.grad).double(), member)
    return total


def _summed(value: Tensor, member: Member) -> Tensor:
    """`value` summed over everything but the channels of `member`: [size]."""
    rows = value.movedim(member.dim, 0).flatten(1).sum(1) if value.ndim > 1 else value
    return rows.cpu()[member.places].sum(1)


def batches(network: Network, split: object, indices: Sequence[int], size: int = 8) -> Batches:
    """Examples of `split` through the evaluation view, `size` at a time."""
    from PIL import Image

    from tlcompile.artifacts import ImageSpec
    from tlcompile.models._inputs import Collate, evaluation_view

    collate = Collate(network)
    view = evaluation_view(network.spec) if isinstance(network.spec, ImageSpec) else None
    starts = range(0, len(indices), size)
    for start in progress.track(starts, "importance", len(starts)):
        part = indices[start : start + size]
        examples = [split[i] for i in part]  # type: ignore[index]
        items = [(view(Image.fromarray(e)) if view else e, 0) for e in examples]
        inputs, _ = collate(items)
        yield inputs, torch.from_numpy(split.labels[list(part)])  # type: ignore[attr-defined]
