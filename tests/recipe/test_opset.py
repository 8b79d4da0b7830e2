"""The opset is what the recipe says, else the default, else the nearest that every target takes."""

from __future__ import annotations

import pytest

from tests.toy_recipe import mistake, with_lines
from tlcompile.compile import openvino, tensorrt
from tlcompile.recipe import opset, parse

ORT, TENSORRT, OPENVINO = (f'[[compile]]\nbackend = "{n}"' for n in ("onnxruntime", "tensorrt", "openvino"))


def test_the_default_is_kept_where_all_targets_take_it() -> None:
    recipe = parse(with_lines(ORT, TENSORRT))
    assert recipe.export.opset == 18
    assert recipe.resolved()["export"] == {"opset": 18, "exporter": "torchscript"}
    assert opset.told(recipe.export, recipe.targets) == ""


@pytest.mark.parametrize(("limits", "nearest"), [((9, 17), 17), ((20, 25), 20)])
def test_without_a_key_it_is_the_nearest_that_all_targets_take(
    limits: tuple[int, int], nearest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "OPSETS", limits, raising=False)
    recipe = parse(with_lines(ORT, OPENVINO))
    assert recipe.export.opset == nearest
    low, high = limits
    why = f"18 is not read by 'openvino ({low} to {high})'"
    assert opset.told(recipe.export, recipe.targets) == f"the graph is in ONNX opset {nearest}: {why}"


def test_a_key_overrides_the_choice_and_is_said() -> None:
    recipe = parse(with_lines("[export]", "opset = 20", ORT, TENSORRT))
    assert recipe.export.opset == 20
    assert opset.told(recipe.export, recipe.targets).endswith("as the recipe says; 18 is the default")


def test_a_key_that_a_target_does_not_take_is_an_error_with_what_is_allowed() -> None:
    said = mistake(with_lines("[export]", "opset = 21", ORT, TENSORRT))
    low, high = tensorrt.OPSETS
    assert said == (
        f"toy.toml:11: export.opset: 21 is not read by 'tensorrt ({low} to {high})'; 17 to {high} suit all targets"
    )


def test_targets_that_share_no_opset_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "OPSETS", (21, 25), raising=False)
    said = mistake(with_lines(TENSORRT, OPENVINO))
    assert "export.opset: 18 is not read by 'openvino (21 to 25)'; none suits all targets" in said
