"""1 × 1 convolutions over small maps as matrix products, on CPUs.

With channels last both are the same product of the same memory; over few pixels the matrix product is the quicker one
(`benchmarks/LOG.md`: half as quick again at 2 × 2, equal from about 8 × 8).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_AREA = 64
"""Pixels of the map up to which the matrix product is quicker or equal."""


class _Pointwise(torch.autograd.Function):
    """conv2d of [N, C, H, W] with [K, C, 1, 1], no bias. Keeps what the convolution would keep, for checkpointing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y: Tensor = functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        rows = grad.permute(0, 2, 3, 1)
        grad_x = (rows @ weight.flatten(1)).permute(0, 3, 1, 2) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_x, None
        return grad_x, (rows.flatten(0, 2).T @ x.permute(0, 2, 3, 1).flatten(0, 2)).view_as(weight)


def is_small(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether the arguments of conv2d are those of a 1 × 1 convolution over a small map, channels last, on a CPU."""
    if (
        bias is not None
        or weight.shape[2:] != (1, 1)
        or groups != 1
        or isinstance(padding, str)
        or any(padding)
        or tuple(stride) != (1, 1)
    ):
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 4:
        return False
    return x.shape[2] * x.shape[3] <= LARGEST_AREA and x.is_contiguous(memory_format=torch.channels_last)


def conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """That of `torch.nn.functional` for arguments that `is_small` accepts; channels last again."""
    y: Tensor = _Pointwise.apply(x, weight)
    return y
