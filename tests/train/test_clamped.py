"""ReLU6 in place has the values and gradients of torch's, bit for bit, and keeps no copy."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tlcompile.train import kernels

values = st.sampled_from([-1.0, -0.0, 0.0, 1e-30, 0.5, 3.0, 5.9999995, 6.0, 7.0, float("inf"), float("nan")])


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=1, max_size=12), st.sampled_from([(0.0, 6.0), (-1.0, 1.0)]))
def test_values_and_gradients_are_torch_s_also_at_the_bounds(row: list[float], bounds: tuple[float, float]) -> None:
    layer = nn.Hardtanh(*bounds, inplace=True)
    x = torch.tensor(row, requires_grad=True)

    def outcome() -> tuple[torch.Tensor, torch.Tensor]:
        y = layer(x * 1)
        (grad,) = torch.autograd.grad(y, x, torch.arange(1.0, len(row) + 1))
        return y.detach(), grad

    expected = outcome()
    with kernels.quick_gradients():
        found = outcome()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_what_is_kept_for_the_gradient_is_the_output_itself() -> None:
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        x = torch.randn(4, requires_grad=True) * 1
        with kernels.quick_gradients():
            y = nn.ReLU6(inplace=True)(x)
    assert [t.data_ptr() for t in kept if t.shape == y.shape] == [y.data_ptr()]


def test_a_layer_that_is_not_in_place_leaves_its_input_alone() -> None:
    x = torch.tensor([-1.0, 7.0], requires_grad=True)
    with kernels.quick_gradients():
        y = nn.ReLU6()(x)
    assert x.tolist() == [-1.0, 7.0]
    assert y.tolist() == [0.0, 6.0]
