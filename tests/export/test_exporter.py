"""A graph that is not the network's is not taken: the other exporter is, and that is written down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny import folder as pictures
from tlcompile.artifacts import Checkpoint, ImageSpec, Splits, read_json, write_json
from tlcompile.data import folder as source
from tlcompile.data import prepare
from tlcompile.errors import ParityError
from tlcompile.export.graph import write
from tlcompile.models._network import Network
from tlcompile.recipe.tables import DataTable, ExportTable


class Mean(torch.nn.Module):
    """Answers otherwise while a tracer (`"traced"`) or any exporter (`"both"`) looks: a graph that is not its own."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)
        self.wrong = wrong

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        lies = {"traced": torch.jit.is_tracing, "both": torch.onnx.is_in_onnx_export}.get(self.wrong, bool)()
        logits: torch.Tensor = self.head(pixels.mean((2, 3)))
        return -logits if lies else logits


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    root = tmp_path_factory.mktemp("data")
    options = source.Options.model_validate({"path": str(pictures(root / "pictures", 20))}, context={"base": root})
    table = DataTable(task="image-classification", source="folder", calibration=8)
    (root / "splits").mkdir()
    prepare(source, options, table, "image", 0, root / "splits")
    return Splits(root / "splits", "")


def export(wrong: str, splits: Splits, root: Path, **table: Any) -> Path:
    torch.manual_seed(0)
    save_file(Mean(wrong).state_dict(), root / "model.safetensors")
    write_json(root / "network.json", {"task": "image-classification", "classes": ["dark", "light"]})

    def build(options: Any, classes: int, pretrained: bool) -> Network:
        return Network(Mean(wrong), ImageSpec(16), ("head",))

    model: Any = SimpleNamespace(module=SimpleNamespace(build=build), options=None)
    (root / "graph").mkdir()
    write(Checkpoint(root, ""), splits, model, ExportTable(**table), root / "graph")
    return root / "graph"


def test_a_network_that_the_first_exporter_gets_wrong_is_exported_by_the_other(splits: Splits, tmp_path: Path) -> None:
    folder = export("traced", splits, tmp_path)
    said = read_json(folder / "exporter.json")
    assert said["exporter"] == "dynamo"
    assert "export: torchscript: changed the outputs too much against torch" in said["refused"][0]
    assert read_json(folder / "parity.json")[0]["ok"]


def test_a_network_that_both_get_wrong_stops_the_build_with_what_each_did(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(ParityError) as caught:
        export("both", splits, tmp_path)
    assert [p.what.split(":")[0] for p in caught.value.problems] == ["torchscript", "dynamo"]


def test_an_exporter_that_can_not_write_the_opset_is_not_taken(splits: Splits, tmp_path: Path) -> None:
    folder = export("never", splits, tmp_path, exporter="dynamo", opset=17)
    said = read_json(folder / "exporter.json")
    assert said["exporter"] == "torchscript"
    assert "dynamo: the dynamo exporter wrote opset 18, not 17" in said["refused"][0]
    assert onnx.load(folder / "model.onnx").opset_import[0].version == 17
