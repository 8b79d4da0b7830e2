"""Which weights become zero, and how small what is left compresses."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

KINDS = (nn.Conv1d, nn.Conv2d, nn.Linear)
ROW, KEPT = 4, 2  # of each 4 weights along the input channels 2 stay


def unfit(layer: nn.Module) -> str:
    """Why a weight [outputs, inputs, …] can't be 2:4 sparse; ''."""
    inputs = layer.get_parameter("weight").shape[1]
    return f"{inputs} input channels to a filter, not a multiple of {ROW}" if inputs % ROW else ""


@torch.no_grad()
def two_of_four(layers: Mapping[str, nn.Module]) -> None:
    """Zero the two smallest of each four weights along the input channels, at each place of a kernel by itself."""
    for layer in layers.values():
        weight = layer.get_parameter("weight")
        rows = weight.transpose(1, -1)  # [outputs, …, inputs]
        fours = rows.reshape(*rows.shape[:-1], -1, ROW)
        least = fours.abs().argsort(dim=-1, stable=True)[..., : ROW - KEPT]
        mask = torch.ones_like(fours, dtype=torch.bool).scatter_(-1, least, False)
        weight.mul_(mask.reshape(rows.shape).transpose(1, -1))


@torch.no_grad()
def unstructured(layers: Mapping[str, nn.Module], amount: float) -> None:
    """Zero the share `amount` of all weights of `layers`, those of the least score over all layers.

    The score is w² over the sum of those squares of its layer that are not smaller (J. Lee et al., "Layer-adaptive
    Sparsity for the Magnitude-based Pruning", ICLR 2021, section 3): it is blind to the scale of a layer, which a norm
    behind it undoes, and never empties one, for the largest weight of each has the score 1.
    """
    weights = [layer.get_parameter("weight") for layer in layers.values()]
    scores = [_adaptive(weight) for weight in weights]
    ranked = torch.cat([s.flatten() for s in scores]).argsort(stable=True)
    keep = torch.ones(len(ranked), dtype=torch.bool)
    keep[ranked[: round(amount * len(ranked))]] = False
    for weight, mask in zip(weights, keep.split([w.numel() for w in weights]), strict=True):
        weight.mul_(mask.view(weight.shape))


def _adaptive(weight: Tensor) -> Tensor:
    squares, order = weight.double().square().flatten().sort(descending=True, stable=True)
    scores = torch.empty_like(squares)
    scores[order] = squares / squares.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)


def density(weight: Tensor) -> float:
    """Share of weights that are not zero."""
    return round(float((weight != 0).double().mean()), 6)


def compressed(state: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors in one zlib stream, the compression of gzip and zip."""
    stream = zlib.compressobj()
    written = sum(len(stream.compress(state[name].contiguous().numpy().tobytes())) for name in sorted(state))
    return written + len(stream.flush())
