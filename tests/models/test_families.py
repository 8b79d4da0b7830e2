"""Every family holds parity with torch from its export to fp16 and int8."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from tests.families import LIMIT, TEXT, exported, feeds_of, passed, rungs
from tests.families import text_folder as folder_of
from tlcompile.models import timm, torchvision, transformers
from tlcompile.models._network import Network

TIMM = ("test_efficientnet", "test_resnet", "test_vit", "test_convnext")
TORCHVISION = ("squeezenet1_1", "mobilenet_v3_small")


def to_int8(network: Network, folder: Path) -> None:
    torch.manual_seed(0)
    graph = passed("simplify", exported(network, feeds_of(network), folder / "export"), folder / "base")
    half = passed("half", graph, folder / "half", min_agreement=0.0)
    quantized = passed("quantize", graph, folder / "int8", "x86", min_agreement=0.0)
    assert rungs(half) == ["export", "optimize/simplify", "optimize/half ()"]
    assert rungs(quantized) == ["export", "optimize/simplify", "optimize/quantize (x86)"]


@pytest.mark.parametrize("family", TEXT)
def test_a_text_family_is_exported_and_quantized_and_holds_parity(family: str, tmp_path: Path) -> None:
    name = str(folder_of(tmp_path / "model", family))
    chosen = transformers.Options.model_validate({"name": name, "max_length": LIMIT}, context={"base": tmp_path})
    to_int8(transformers.build(chosen, 3), tmp_path)


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_family_is_exported_and_quantized_and_holds_parity(name: str, tmp_path: Path) -> None:
    to_int8(timm.build(timm.Options(name=name, weights="none", image_size=64), 3), tmp_path)


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_torchvision_family_is_exported_and_quantized_and_holds_parity(name: str, tmp_path: Path) -> None:
    to_int8(torchvision.build(torchvision.Options(name=name, weights="none", image_size=64), 3), tmp_path)


def test_products_of_activations_stay_in_fp32(tmp_path: Path) -> None:
    network = timm.build(timm.Options(name="test_vit", weights="none", image_size=64), 3)
    graph = passed("simplify", exported(network, feeds_of(network), tmp_path / "export"), tmp_path / "base")
    model = onnx.load(passed("quantize", graph, tmp_path / "int8", "x86", min_agreement=0.0).model)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {i.name for i in model.graph.initializer}
    quantized = [
        n for n in model.graph.node if n.op_type == "MatMul" and makers[n.input[1]].op_type == "DequantizeLinear"
    ]
    assert quantized
    assert all(makers[n.input[1]].input[0] in constants for n in quantized)
