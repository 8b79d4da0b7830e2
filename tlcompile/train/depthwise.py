"""The weight gradient of depthwise convolutions over small maps, on CPUs.

oneDNN takes 30 to 50 ms for the weight gradient of 672 to 1,152 channels over 2 × 2 or 4 × 4 pixels, ten times more
than for everything else in such a layer (`benchmarks/LOG.md`). Deep layers of EfficientNet and MobileNet see such maps
when trained on small pictures. The gradient of one tap of the kernel is a sum over the places where the shifted input
and the gradient of the output overlap; on a small map most taps overlap little or not at all, so the sums are quick.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LARGEST_AREA = 16
"""Pixels of the output map up to which the sums are quicker than oneDNN."""

Pair = tuple[int, int]


class _Depthwise(torch.autograd.Function):
    """conv2d of [N, C, H, W] with [C, 1, k, l], one filter a channel, no bias, dilation 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        y: Tensor = torch.ops.aten.conv2d(x, weight, None, stride, padding, (1, 1), x.shape[1])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), x.shape[1], (True, False, False)
            )[0]
        grad_weight = weight_gradient(x, grad, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Gradient [C, 1, k, l] from the input [N, C, H, W] and the gradient of the output [N, C, h, w], tap by tap."""
    found = torch.zeros_like(weight)
    for i in range(weight.shape[2]):
        rows = _overlap(i - padding[0], stride[0], x.shape[2], grad.shape[2])
        for j in range(weight.shape[3]) if rows else ():
            columns = _overlap(j - padding[1], stride[1], x.shape[3], grad.shape[3])
            if rows and columns:
                seen = x[:, :, rows[0], columns[0]]
                found[:, 0, i, j] = (seen * grad[:, :, rows[1], columns[1]]).sum((0, 2, 3))
    return found


def _overlap(offset: int, stride: int, size: int, out: int) -> tuple[slice, slice] | None:
    """(places of the input, places of the output) that a tap at `offset` brings together; None where there are none."""
    first = max(0, -(offset // stride))
    last = min(out - 1, (size - 1 - offset) // stride)
    if first > last:
        return None
    return slice(first * stride + offset, last * stride + offset + 1, stride), slice(first, last + 1)


def is_small(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether the arguments of conv2d are those of a small depthwise convolution on a CPU."""
    if bias is not None or groups != x.shape[1] or groups != len(weight) or isinstance(padding, str):
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or tuple(dilation) != (1, 1) or not weight.requires_grad:
        return False
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    height, width = ((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sizes)
    return bool(height * width <= LARGEST_AREA)


def conv2d(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """That of `torch.nn.functional` for arguments that `is_small` accepts."""
    y: Tensor = _Depthwise.apply(x, weight, stride, padding)
    return y
