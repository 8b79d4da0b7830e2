"""A 1 × 1 convolution over a small map as a matrix product has torch's values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tlcompile.train import kernels, pointwise


def channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last).requires_grad_()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(2, 8), st.integers(2, 8))
def test_values_and_gradients_are_those_of_the_convolution(
    n: int, channels: int, filters: int, height: int, width: int
) -> None:
    torch.manual_seed(n)
    layer, x = nn.Conv2d(channels, filters, 1, bias=False), channels_last(n, channels, height, width)
    y = layer(x)
    along = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, *layer.parameters()], along)
    with kernels.quick_gradients():
        found = layer(x)
    torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found, [x, *layer.parameters()], along), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("layer", "shape", "taken"),
    [
        (nn.Conv2d(8, 4, 1, bias=False), (2, 8, 8, 8), True),
        (nn.Conv2d(8, 4, 1, bias=False), (2, 8, 9, 8), False),
        (nn.Conv2d(8, 4, 1, stride=2, bias=False), (2, 8, 8, 8), False),
        (nn.Conv2d(8, 4, 1, padding=1, bias=False), (2, 8, 4, 4), False),
        (nn.Conv2d(8, 4, 1, groups=2, bias=False), (2, 8, 4, 4), False),
        (nn.Conv2d(8, 4, 3, bias=False), (2, 8, 4, 4), False),
        (nn.Conv2d(8, 4, 1), (2, 8, 4, 4), False),
        (nn.Conv2d(8, 4, 1, bias=False).double(), (2, 8, 4, 4), False),
    ],
)
def test_only_small_maps_with_channels_last_are_taken(layer: nn.Conv2d, shape: tuple[int, ...], taken: bool) -> None:
    def is_product(x: torch.Tensor) -> bool:
        with kernels.quick_gradients():
            return "_Pointwise" in str(layer(x.to(layer.weight.dtype)).grad_fn)

    assert is_product(channels_last(*shape)) == taken
    assert not is_product(torch.randn(*shape))


def test_the_output_has_channels_last_again() -> None:
    y = pointwise.conv2d(channels_last(2, 8, 4, 4), torch.randn(6, 8, 1, 1))
    assert y.shape == (2, 6, 4, 4)
    assert y.is_contiguous(memory_format=torch.channels_last)
