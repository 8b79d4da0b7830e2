"""The right layer is named when gradients vanish or explode and when numbers stop being numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm import create_model
from torch import nn

from tlcompile.train.monitor import Gradients, first_bad_layer, save_bad_batch


def deep(depth: int, activation: type[nn.Module], std: float | None = None) -> nn.Sequential:
    """`depth` square layers and an output of 4 classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(16, 16)
        if std is not None:
            nn.init.normal_(linear.weight, std=std)
        layers += [linear, activation()]
    return nn.Sequential(*layers, nn.Linear(16, 4))


def learn(module: nn.Module, inputs: torch.Tensor, steps: int = 12, every: int = 2) -> Gradients:
    optimizer, gradients = torch.optim.AdamW(module.parameters(), 1e-3), Gradients(module, every)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), torch.arange(len(inputs)) % 4).backward()
        gradients.look()
        optimizer.step()
    return gradients


def numbers(n: int = 32) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(0))


def test_the_ratio_is_gradient_norm_over_weight_norm() -> None:
    module = nn.Sequential(nn.Linear(16, 4))
    gradients = Gradients(module, every=1)
    for size in (1.0, 3.0, 2.0):
        module[0].weight.grad = torch.full((4, 16), size)
        gradients.look()
    expected = 2.0 * 64**0.5 / float(module[0].weight.detach().norm())
    assert gradients.ratios() == {"0": pytest.approx(expected, rel=1e-5)}


def test_only_every_so_many_calls_look() -> None:
    gradients = learn(deep(1, nn.ReLU), numbers(), steps=9, every=4)
    assert [len(seen) for seen in gradients.seen.values()] == [3, 3]


def test_twenty_sigmoids_make_the_gradients_of_the_first_layer_vanish() -> None:
    (said,) = learn(deep(20, nn.Sigmoid), numbers()).warnings()
    assert "the gradients of '0' vanish" in said
    assert "at the output, '40'" in said
    share = float(said.split("weights' norm, ")[1].split(" times")[0])
    assert share < 1e-10


def test_weights_that_are_too_large_make_gradients_explode() -> None:
    (said,) = learn(deep(6, nn.ReLU, std=2.0), numbers()).warnings()
    assert "explode" in said
    assert float(said.split("norm is ")[1].split(" of")[0]) > 1e3


def test_gradients_that_grow_towards_the_input_are_named_there() -> None:
    module = deep(3, nn.Tanh)
    gradients = Gradients(module, every=1)
    for _ in range(3):
        for name, weight in module.named_parameters():
            weight.grad = torch.full_like(weight, 100.0 if name.startswith("0.") else 1e-3)
        gradients.look()
    (said,) = gradients.warnings()
    assert "the gradients of '0' explode" in said


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit"])
def test_networks_that_learn_are_not_warned_of(name: str) -> None:
    torch.manual_seed(0)
    module = create_model(name, num_classes=4, **({"img_size": 32} if "vit" in name else {}))
    inputs = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = learn(module, inputs)
    assert len(gradients.ratios()) > 10
    assert gradients.warnings() == []


def test_nothing_is_said_before_enough_was_seen() -> None:
    assert learn(deep(20, nn.Sigmoid), numbers(), steps=2, every=1).warnings() == []


def test_layers_that_are_unfrozen_later_keep_their_place_before_the_output() -> None:
    module = deep(2, nn.ReLU)
    gradients = Gradients(module, every=1)
    for step in range(6):
        for name, weight in module.named_parameters():
            weight.grad = torch.ones_like(weight) if name.startswith("4.") or step > 2 else None
        gradients.look()
    assert list(gradients.ratios()) == ["0", "2", "4"]


class Logarithm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.log()


class Pair(nn.Module):
    """Gives a tuple with a dict in it, as networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Logarithm()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return x, {"log": self.inner(x)}


def test_the_first_layer_with_a_nan_is_named() -> None:
    module = nn.Sequential(nn.Linear(16, 16), nn.Sequential(nn.ReLU(), Logarithm()), nn.Linear(16, 4))
    assert first_bad_layer(module, {"x": numbers()}) == "'1.1'"
    assert first_bad_layer(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), {"x": numbers()}) == ""


def test_weights_that_are_nan_are_said() -> None:
    module = deep(2, nn.ReLU)
    with torch.no_grad():
        module[2].weight[3, 3] = math.nan
    assert first_bad_layer(module, {"x": numbers()}) == "'2', whose weights are not finite"


def test_a_bad_input_is_named_before_any_layer() -> None:
    pixels = numbers()
    pixels[3, 2] = math.inf
    assert first_bad_layer(deep(1, nn.ReLU), {"pixels": pixels}) == "input 'pixels'"


def test_tuples_and_dicts_are_looked_into() -> None:
    assert first_bad_layer(Pair(), {"x": torch.tensor([-1.0])}) == "'inner'"


def test_looking_for_the_bad_layer_leaves_statistics_and_mode_as_they_were() -> None:
    module = nn.Sequential(nn.BatchNorm1d(16), Logarithm()).train()
    first_bad_layer(module, {"x": numbers()})
    assert module.training
    assert int(module[0].num_batches_tracked) == 0
    assert not module[0].running_mean.any()
    assert not module[1]._forward_hooks


def test_the_bad_batch_can_be_loaded_again(tmp_path: Path) -> None:
    inputs = {"input_ids": torch.arange(6).reshape(2, 3).t(), "pixels": torch.full((3, 2), math.nan)}
    path = save_bad_batch(tmp_path, inputs, torch.tensor([1, 0, 1]), {"epoch": 2, "layer": "'0'", "loss": math.nan})
    kept = load_file(path)
    assert kept.keys() == {"input_ids", "pixels", "targets"}
    assert torch.equal(kept["input_ids"], inputs["input_ids"])
    assert kept["pixels"].isnan().all()
    facts = json.loads(path.with_suffix(".json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert facts == {"epoch": 2, "layer": "'0'", "loss": "nan"}
