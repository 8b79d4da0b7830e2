"""ReLU6 and its kind, in place and without a copy, on CPUs.

The derivative of `hardtanh` is read off its input, so autograd copies that before working in place. It can as well be
read off the output, which lies at a bound exactly where the input lay at or beyond it; no copy, and the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Clamped(torch.autograd.Function):
    """hardtanh of a tensor of any shape, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        y = x.clamp_(low, high)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        ctx.bounds = low, high
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,), (y,) = grads, ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, *ctx.bounds), None, None


def hardtanh_in_place(x: Tensor, low: float, high: float) -> Tensor:
    """`torch.nn.functional.hardtanh(x, low, high, inplace=True)`."""
    y: Tensor = _Clamped.apply(x, low, high)
    return y
