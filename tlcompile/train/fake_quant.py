"""Rounding as int8 engines round, in the forward passes of training: the weights learn to bear it.

The backward pass takes rounding for the identity inside the range and for a constant outside (the straight-through
estimator: B. Jacob et al., "Quantization and Training of Neural Networks", CVPR 2018, section 3).

Weights: symmetric, a scale for each output channel from its largest magnitude, as the quantizer of the graph has it.
Such rounding commutes with a factor per channel, Q(c·w) = c·Q(w), so it is the same before and behind the folding of a
batch norm, and nothing is folded here.

Activations: one range a tensor, the moving average of each batch's least and largest value. Rounded are what goes into
a Conv or Linear and what comes out, behind the batch norm and the ReLU that follow it: the tensors that get Q/DQ nodes.
Not rounded, and so not learnt: biases (32 bits), and sums of a skip connection where no layer reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from tlcompile.artifacts import ImageSpec
from tlcompile.models._network import Network

PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Linear, Conv1D)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CLIPS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
"""Activations that the quantizer merges into the range behind them."""
FOLLOW = 0.05  # share of a batch in the moving average of ranges
TINY = 1e-12  # least scale: a channel or a tensor of zeros stays zero


@dataclass(frozen=True)
class Grid:
    """What a rounded value can be: weights -levels…levels times a scale; activations 256 values, or -127…127."""

    levels: int
    symmetric: bool


def grid(dialects: Sequence[str]) -> Grid:
    """The coarsest that `dialects` need: 7-bit weights without VNNI, symmetric activations for TensorRT."""
    return Grid(64 if "x86" in dialects else 127, "tensorrt" in dialects)


def put_on(network: Network, dialects: Sequence[str]) -> None:
    chosen = grid(dialects)
    behind = results(network)  # before anything is wrapped
    for layer, name, axis in weights(network.module):
        parametrize.register_parametrization(layer, name, Rounded(chosen.levels, axis))
    for layer in [m for m in network.module.modules() if isinstance(m, PRODUCTS)]:
        _watch(layer, "rounded_input", chosen, before=True)
    for layer, before in behind:
        _watch(layer, "rounded_input" if before else "rounded_output", chosen, before)


def take_off(module: nn.Module) -> None:
    """Remove the ranges; the parametrizations of weights are for the caller to remove."""
    for layer in list(module.modules()):
        for name, part in list(layer.named_children()):
            if isinstance(part, Range):
                part.handle.remove()
                delattr(layer, name)


def weights(module: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """(layer, name of its weight, axis of the output channels)."""
    for layer in module.modules():
        if isinstance(layer, PRODUCTS):
            yield layer, "weight", 1 if isinstance(layer, Conv1D) else 0
        elif isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
            yield layer, "in_proj_weight", 0


class Rounded(nn.Module):
    """A weight rounded to `levels` steps on either side of zero, by a scale for each channel of `axis`."""

    def __init__(self, levels: int, axis: int) -> None:
        super().__init__()
        self.levels, self.axis = levels, axis

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().amax([d for d in range(weight.ndim) if d != self.axis])
        scale = (largest / self.levels).clamp(min=TINY).float()
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, self.axis, -self.levels, self.levels
        )
        return rounded


class Range(nn.Module):
    """The range of one activation; rounds what it is given. Follows the batches in training mode."""

    low: Tensor
    high: Tensor
    seen: Tensor
    handle: RemovableHandle

    def __init__(self, symmetric: bool, device: torch.device) -> None:
        super().__init__()
        self.symmetric = symmetric
        for name in ("low", "high", "seen"):
            self.register_buffer(name, torch.zeros((), device=device))

    def forward(self, x: Tensor) -> Tensor:
        low, high = (bound.float() for bound in x.detach().aminmax())
        self._follow(low, high)
        scale, zero = self.scale()
        scale = scale + 0 * (low + high)  # NaN where x has one: the kernel rounds NaN to a number
        least, most = (-127, 127) if self.symmetric else (0, 255)
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero, least, most)
        return rounded

    def scale(self) -> tuple[Tensor, Tensor]:
        """(step float32, zero point int32) of a range that includes 0."""
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)
        if self.symmetric:
            return (torch.maximum(-low, high) / 127).clamp(min=TINY), torch.zeros_like(low, dtype=torch.int32)
        scale = ((high - low) / 255).clamp(min=TINY)
        return scale, (-low / scale).round().clamp(0, 255).to(torch.int32)

    @torch.no_grad()
    def _follow(self, low: Tensor, high: Tensor) -> None:
        """The first batch is taken as it is, in whichever mode; a batch that is not finite is left out."""
        share = torch.where(self.seen > 0, FOLLOW if self.training else 0.0, 1.0)
        finite = torch.isfinite(low) & torch.isfinite(high)
        for bound, now in ((self.low, low), (self.high, high)):
            bound.copy_(torch.where(finite, bound + share * (now - bound), bound))
        self.seen.copy_(torch.maximum(self.seen, finite.float()))


def _watch(layer: nn.Module, name: str, chosen: Grid, before: bool) -> None:
    """Round what goes into `layer`, or what comes out."""
    if hasattr(layer, name):
        return
    device = next((t.device for t in layer.parameters()), torch.device("cpu"))
    part = Range(chosen.symmetric, device)
    layer.add_module(name, part)
    if before:
        part.handle = layer.register_forward_pre_hook(lambda _, args: (part(args[0]), *args[1:]) if args else None)
    else:
        part.handle = layer.register_forward_hook(lambda _, args, result: part(result))


def results(network: Network) -> list[tuple[nn.Module, bool]]:
    """What else is rounded than inputs of products: (layer, whether to round what goes into it or what comes out).

    The result of a product is whole where the batch norm and the ReLU that take it have given theirs. Where the next
    product takes that, its input is rounded already.
    """
    taken_by, gives = _run(network)
    found: dict[nn.Module, bool] = {}
    for layer in [m for m in gives if isinstance(m, PRODUCTS)]:
        end: nn.Module = layer
        following = taken_by.get(gives[layer])
        while isinstance(following, (*NORMS, *CLIPS)) and following in gives:
            end, following = following, taken_by.get(gives[following])
        activation = getattr(end, "act", None) if isinstance(end, NORMS) else None  # timm's norms hold it
        if isinstance(activation, nn.Module) and not isinstance(activation, (nn.Identity, *CLIPS)):
            found[activation] = True
        elif not isinstance(following, PRODUCTS):
            found[end] = False
    return list(found.items())


Key = tuple[int, int]
"""Identity and version of a tensor: tells apart what it was before and after work in place."""


def _run(network: Network) -> tuple[dict[Key, nn.Module], dict[nn.Module, Key]]:
    """(tensor -> the first layer that takes it, layer -> the tensor that it gives), of one example."""
    module, alive = network.module, list[Tensor]()
    taken_by: dict[Key, nn.Module] = {}
    gives: dict[nn.Module, Key] = {}

    def key(tensor: Tensor) -> Key:
        alive.append(tensor)  # else its identity could be that of a later one
        return id(tensor), tensor._version

    def enter(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            taken_by.setdefault(key(args[0]), layer)

    def leave(layer: nn.Module, args: Any, result: Tensor) -> None:
        gives.setdefault(layer, key(result))

    layers = [m for m in module.modules() if isinstance(m, (*PRODUCTS, *NORMS, *CLIPS))]
    hooks = [h for m in layers for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(*_example(network))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return taken_by, gives


def _example(network: Network) -> tuple[Tensor, ...]:
    device = next(network.module.parameters()).device
    if isinstance(network.spec, ImageSpec):
        return (torch.zeros(1, 3, network.spec.image_size, network.spec.image_size, device=device),)
    ids = torch.ones(1, min(8, network.spec.max_length), dtype=torch.int64, device=device)
    return ids, torch.ones_like(ids)
