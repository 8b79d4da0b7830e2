"""What a network wears while it is trained: rounding that behaves like that of int8 engines, zeros that stay."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from tests.toy_training import job, run
from tests.train import nets
from tests.train.test_train import killed
from tlcompile.train import dress, fake_quant
from tlcompile.train.fake_quant import Range, Rounded

DIALECTS = ("x86-vnni", "x86", "arm", "tensorrt")


def ranges(module: nn.Module) -> dict[str, Range]:
    return {name: part for name, part in module.named_modules() if isinstance(part, Range)}


def seen(symmetric: bool, *values: float) -> Range:
    """A range that has seen one batch, in evaluation mode."""
    part = Range(symmetric, torch.device("cpu")).eval()
    part(torch.tensor(values))
    return part


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40), st.booleans())
def test_activations_are_rounded_as_quantize_linear_does(values: list[float], symmetric: bool) -> None:
    x = np.array(values, np.float32)
    low, high = min(x.min(), 0), max(x.max(), 0)
    steps, least, most = (127, -127, 127) if symmetric else (255, 0, 255)
    scale = max((max(-low, high) if symmetric else high - low) / steps, 1e-12)
    zero = 0 if symmetric else round(-low / scale)
    expected = (np.clip(np.round(x / scale) + zero, least, most) - zero) * scale
    found = seen(symmetric, *values)(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() <= 1.001 * scale  # a tie may fall either way
    assert np.abs(found - x).max() <= 0.501 * scale + 1e-6


def test_the_gradient_is_one_inside_the_range_and_zero_outside() -> None:
    part = seen(False, -1.0, 3.0)
    x = torch.tensor([-1.5, -0.9, 0.0, 0.123456789, 2.9, 3.5], dtype=torch.float64, requires_grad=True)
    part(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    outer = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    Rounded(127, 0)(weight).backward(outer)
    assert weight.grad is not None
    assert torch.equal(weight.grad, outer)


def test_nan_is_never_rounded_away_and_spoils_no_range() -> None:
    for symmetric in (False, True):
        for mode in (True, False):
            part = seen(symmetric, -1.0, 3.0).train(mode)
            for bad in (math.nan, math.inf):
                assert torch.isnan(part(torch.tensor([0.5, bad]))).any()
            assert torch.isfinite(part(torch.tensor([0.5, 1.0]))).all()
    assert torch.isnan(Rounded(127, 0)(torch.tensor([[1.0, math.nan], [1.0, 2.0]]))[0]).all()


def test_ranges_follow_batches_in_training_and_stand_still_in_evaluation() -> None:
    part = seen(False, 0.0, 1.0)
    part(torch.tensor([0.0, 9.0]))
    assert float(part.high) == 1.0
    part.train()(torch.tensor([0.0, 2.0]))
    assert float(part.high) == pytest.approx(1 + fake_quant.FOLLOW)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([64, 127]))
def test_rounding_a_weight_commutes_with_the_norm_that_is_folded_into_it(seed: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    factor = torch.randn(6, 1, 1, 1, generator=generator) * 5  # of either sign
    rounded = Rounded(levels, 0)
    step = (factor * weight).abs().amax((1, 2, 3), keepdim=True) / levels
    apart = (rounded(factor * weight) - factor * rounded(weight)).abs() / step
    assert (apart < 1e-3).float().mean() > 0.99  # but for ties
    assert apart.max() < 1.001


def test_rounding_twice_is_rounding_once_and_a_channel_of_zeros_stays() -> None:
    weight = torch.cat([torch.randn(5, 7), torch.zeros(1, 7)])
    once = Rounded(64, 0)(weight)
    assert torch.allclose(Rounded(64, 0)(once), once, atol=1e-6)
    assert all(len(row.unique()) <= 129 for row in once)
    assert not once[-1].any()


@pytest.mark.parametrize("name", nets.EVERY)
@pytest.mark.parametrize("dialects", [("x86",), DIALECTS], ids=["x86", "all"])
def test_a_network_comes_back_plain_with_the_weights_that_it_was_trained_to_use(
    name: str, dialects: tuple[str, ...]
) -> None:
    network = nets.network(name)
    module, before = network.module, {k: v.clone() for k, v in network.module.state_dict().items()}
    dress.put_on(network, dialects=dialects)
    module.eval()(*nets.inputs(network))
    watched = [n for n, part in ranges(module).items() if part.seen]
    assert len(watched) >= len([m for m in module.modules() if isinstance(m, fake_quant.PRODUCTS)]) / 2
    dress.take_off(module)
    after = module.state_dict()
    assert after.keys() == before.keys()
    expected = dict(before)
    for layer, weight, axis in fake_quant.weights(module):
        [key] = [f"{n}.{weight}" for n, m in module.named_modules() if m is layer]
        expected[key] = Rounded(64, axis)(before[key])
    assert all(torch.equal(after[k], expected[k]) for k in before)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_no_tensor_is_rounded_between_a_convolution_and_its_norm_or_relu(name: str) -> None:
    """Everything before a ReLU is covered by the range behind it, and each sum reads rounded branches."""
    network = nets.network(name)
    dress.put_on(network, dialects=("x86-vnni",))
    module = network.module
    modules = dict(module.named_modules())
    places = {n.rpartition(".")[0] for n in ranges(module) if n.endswith("output")}
    kinds = {type(modules[p]).__name__ for p in places}
    assert kinds <= {"BatchNorm2d", "ReLU", "Linear", "ParametrizedLinear", "ReLU6"}
    if name == "resnet18":
        assert {"layer1.0.bn2", "layer1.1.bn2", "layer4.1.bn2", "layer2.0.downsample.1"} <= places


def test_zeros_stay_and_the_rest_is_free() -> None:
    network = nets.network("test_resnet")
    layer = network.module.get_submodule("layer1.0.conv1")
    with torch.no_grad():
        layer.weight[:, ::2] = 0
    dress.put_on(network, keep_zeros=["layer1.0.conv1"], dialects=("x86",))
    before = layer.weight.detach().clone()
    optimizer = torch.optim.SGD(network.module.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for seed in range(3):
        network.module(*nets.inputs(network, seed=seed)).square().sum().backward()
        optimizer.step()
    dress.take_off(network.module)
    assert not layer.weight[:, ::2].any()
    assert (layer.weight[:, 1::2] != before[:, 1::2]).float().mean() > 0.5


def test_killed_and_resumed_in_dress_equals_never_killed_bit_for_bit(splits: Path, tmp_path: Path) -> None:
    worn = {"dialects": ["x86"], "keep_zeros": ["conv_stem"]}
    asked = replace(job(splits, save_every_s=1e-6, freeze_norm=True), dress=worn)
    whole = run(asked, tmp_path / "whole")
    resumed = run(asked, killed(asked, tmp_path / "killed", "at-0001-000002"))
    a, b = (load_file(out / "model.safetensors") for out in (whole, resumed))
    assert a.keys() == b.keys()
    assert not any("rounded" in k or "parametrizations" in k for k in a)
    assert all(torch.equal(a[k], b[k]) for k in a)
