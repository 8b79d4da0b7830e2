"""The own weight gradient is the library's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tlcompile.train import depthwise, kernels


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.integers(0, 3), st.data()
)
def test_the_weight_gradient_is_autograd_s(
    height: int, width: int, kernel: int, stride: int, padding: int, data: st.DataObject
) -> None:
    if min(height, width) + 2 * padding < kernel:
        return
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    weight = torch.randn(3, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    y = nn.functional.conv2d(x, weight, None, stride, padding, 1, 3)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, weight, grad)
    found = depthwise.weight_gradient(x, grad, weight, (stride, stride), (padding, padding))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [32, 64])
def test_a_network_has_the_same_gradients_within_it(size: int, layout: torch.memory_format) -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=2).eval().to(memory_format=layout)
    x = torch.randn(2, 3, size, size).contiguous(memory_format=layout)

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        network(x).square().sum().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    plain = gradients()
    with kernels.quick_gradients():
        quick = gradients()
    assert len(plain) == len(quick) == len(list(network.parameters()))
    for a, b in zip(plain, quick, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_small_depthwise_maps_are_taken() -> None:

    def names(layer: nn.Conv2d, size: int) -> str:
        with kernels.quick_gradients():
            return str(layer(torch.randn(1, layer.in_channels, size, size)).grad_fn)

    taken = {
        "small": names(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 4),
        "large": names(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 5),
        "dense": names(nn.Conv2d(8, 8, 3, padding=1, bias=False), 4),
        "biased": names(nn.Conv2d(8, 8, 3, padding=1, groups=8), 4),
    }
    assert [name for name, function in taken.items() if "_Depthwise" in function] == ["small"]
