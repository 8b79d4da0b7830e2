"""What a network costs to run, as a sum over its layers, for any sizes of its axes.

cost of a layer = places where it is applied × (products at one place + ELEMENT × numbers that it writes there) × rate

Early layers of a convolutional network are applied at many places and hold few weights, so what a channel costs and
what it holds are different things (M. Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022).
The rate of a resolution is measured on the target: see `_search.rates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tlcompile.compress._axes import Axis, example
from tlcompile.models._network import Network

ELEMENT = 32
"""Products that take as long as one number that is written and read again: the ratio of a CPU's arithmetic to its
memory, and why a depthwise layer of few products is not cheap."""


@dataclass(frozen=True)
class Cost:
    """`places` by layer weight: how often it is applied; `shapes`: of the weights as they are; `rates` by places."""

    places: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, Axis]
    rates: Mapping[int, float] = field(default_factory=dict)

    def shapes_at(self, sizes: Mapping[str, int]) -> dict[str, list[int]]:
        """The shapes of the weights when axes have `sizes`; those that it does not name stay whole."""
        found = {name: list(shape) for name, shape in self.shapes.items()}
        for name, size in sizes.items():
            self.take(found, self.axes[name], self.axes[name].size - size)
        return found

    def take(self, shapes: dict[str, list[int]], axis: Axis, count: int) -> None:
        """Shrink `shapes` in place by `count` channels of `axis`."""
        for member in axis.members:
            if member.tensor in shapes:
                shapes[member.tensor][member.dim] -= count * member.places.shape[1]

    def of(self, name: str, shape: Sequence[int]) -> float:
        """Of the layer with the weight `name` in the shape `shape`."""
        products = 1
        for n in shape:
            products *= n
        places = self.places[name]
        return self.rates.get(places, 1.0) * places * (products + ELEMENT * shape[0])

    def total(self, shapes: Mapping[str, Sequence[int]]) -> float:
        return sum(self.of(name, shape) for name, shape in shapes.items())

    def saved(self, shapes: dict[str, list[int]], axis: Axis, count: int) -> float:
        """What `count` channels of `axis` cost where the weights have `shapes`."""
        touched = {m.tensor: shapes[m.tensor] for m in axis.members if m.tensor in shapes}
        after = {name: list(shape) for name, shape in touched.items()}
        self.take(after, axis, count)
        return sum(self.of(name, touched[name]) - self.of(name, after[name]) for name in touched)

    def products(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Multiply-accumulates of one example in layers with weights."""
        return sum(self.places[name] * int(torch.Size(shape).numel()) for name, shape in shapes.items())

    def resolution(self, axis: Axis) -> int:
        """The places of the layers that `axis` costs most in."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        spent: dict[int, float] = {}
        for tensor in {m.tensor for m in axis.members if m.tensor in shapes}:
            spent[self.places[tensor]] = spent.get(self.places[tensor], 0) + self.of(tensor, shapes[tensor])
        return max(spent, key=lambda places: spent[places])

    def with_rates(self, rates: Mapping[int, float]) -> Cost:
        return replace(self, rates=rates)


def measure(network: Network, axes: Sequence[Axis]) -> Cost:
    """The cost of `network`, from one run of it."""
    places: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> object:
        def hook(layer: nn.Module, inputs: object, output: Tensor) -> None:
            weight: Tensor = layer.weight  # type: ignore[assignment]
            places[f"{name}.weight"] = output.numel() // len(weight)
            shapes[f"{name}.weight"] = tuple(weight.shape)

        return hook

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [
        layer.register_forward_hook(note(name))  # type: ignore[arg-type]
        for name, layer in network.module.named_modules()
        if isinstance(layer, kinds)
    ]
    with torch.inference_mode():
        network.module.eval()(*example(network))
    for hook in hooks:
        hook.remove()
    return Cost(places, shapes, {axis.name: axis for axis in axes})
