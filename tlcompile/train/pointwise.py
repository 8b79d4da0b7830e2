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


def is_small(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether the arguments of conv2d are those of a 1 × 1 convolution over a small map, channels last, on a CPU."""
    if weight.shape[2:] != (1, 1) or groups != 1 or isinstance(padding, str) or any(padding) or tuple(stride) != (1, 1):
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 4:
        return False
    return x.shape[2] * x.shape[3] <= LARGEST_AREA and x.is_contiguous(memory_format=torch.channels_last)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """That of `torch.nn.functional` for arguments that `is_small` accepts; channels last again."""
    y: Tensor = functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return y
