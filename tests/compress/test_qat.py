from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from tests.toy_compress import context
from tests.toy_training import job, run, splits_folder
from tlcompile import export, optimize, parity
from tlcompile.artifacts import Checkpoint, Graph, Splits, read_json
from tlcompile.compress import qat
from tlcompile.data._split import Split
from tlcompile.errors import RecipeError
from tlcompile.models import timm
from tlcompile.optimize import quantize
from tlcompile.pipeline.stages import calibration
from tlcompile.recipe.tables import ExportTable, Plugin
from tlcompile.runtime.feeds import feeder
from tlcompile.train import Job

Trained = tuple[Job, Checkpoint]
SPREAD = 30.0
"""How many times wider than the others one channel of each block becomes: int8 has one scale for all of them."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A trained ResNet that answers as before and that int8 hurts: norm × SPREAD before a ReLU, / SPREAD behind it."""
    root = tmp_path_factory.mktemp("qat")
    options = timm.Options.model_validate({"name": "test_resnet", "weights": "none", "image_size": 32, "crop_pct": 1.0})
    asked = replace(job(splits_folder(root), lr=3e-3), model=Plugin("models", "timm", options))
    folder = run(asked, root / "trained")
    state = load_file(folder / "model.safetensors")
    for block in ("layer1.0", "layer2.0", "layer3.0"):
        state[f"{block}.bn1.weight"][0] *= SPREAD
        state[f"{block}.bn1.bias"][0] *= SPREAD
        state[f"{block}.conv2.weight"][:, 0] /= SPREAD
    save_file(state, folder / "model.safetensors")
    return asked, Checkpoint(folder, "digest")


def graph(of: Trained, folder: Path) -> Graph:
    """The network as it is exported."""
    folder.mkdir()
    asked, checkpoint = of
    export.export(checkpoint, Splits(asked.splits, "digest"), asked.model, ExportTable(), folder)
    return Graph(folder, "digest")


def int8(of: Graph, splits: Path, dialect: str) -> Path:
    """The graph as the ordinary pass quantizes it."""
    path = of.folder / f"{dialect}.onnx"
    known = optimize.Context(dialect, lambda: calibration(of, Splits(splits, "digest")))
    quantize.apply(of.model, quantize.Options(), known, path)
    return path


def logits(model: Path, of: Graph, splits: Path) -> np.ndarray:
    """float32 [n, 2] of all training pictures."""
    feed, split = feeder(of.signature, of.folder), Split(splits, "train")
    return np.concatenate([parity.run_graph(model, [feed([split[i]])])[0]["logits"] for i in range(len(split))])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def aware(of: Trained, root: Path, dialect: str, **options: object) -> Checkpoint:
    folder = root / "qat"
    folder.mkdir()
    qat.apply(context(*of, root / "work", (dialect,)), qat.Options(**options), folder)
    return Checkpoint(folder, "digest")


@pytest.mark.parametrize("dialect", ["x86", "tensorrt"])
def test_the_ordinary_int8_pass_moves_the_logits_less_after_it(network: Trained, tmp_path: Path, dialect: str) -> None:
    asked, _ = network
    before = graph(network, tmp_path / "before")
    after = graph((asked, aware(network, tmp_path, dialect, epochs=2)), tmp_path / "after")
    lost = []
    for each in (before, after):
        fp32, quantized = (logits(path, each, asked.splits) for path in (each.model, int8(each, asked.splits, dialect)))
        lost.append(distance(fp32, quantized) / fp32.std())
    assert lost[1] < 0.7 * lost[0]


def test_the_weights_that_it_leaves_are_on_the_grid_of_the_int8_graph(network: Trained, tmp_path: Path) -> None:
    """So quantizing them changes nothing."""
    asked, _ = network
    after = graph((asked, aware(network, tmp_path, "x86", epochs=1)), tmp_path / "after")
    fp32, quantized = (onnx.load(p).graph for p in (after.model, int8(after, asked.splits, "x86")))
    weights = {i.name: numpy_helper.to_array(i) for i in fp32.initializer}
    constants = {i.name: numpy_helper.to_array(i) for i in quantized.initializer}
    convolutions = [n for n in fp32.node if n.op_type == "Conv"]
    assert len(convolutions) > 8
    for node in convolutions:
        exact, name = weights[node.input[1]], node.input[1]
        kept, scale = constants[f"{name}_quantized"], constants[f"{name}_scale"]
        found = kept * scale.reshape(-1, 1, 1, 1)
        assert np.abs(found - exact).max() <= 1e-3 * scale.max()
        assert np.abs(kept.astype(int)).max() == 64


def test_norms_keep_their_statistics_and_the_names_of_the_network_stay(network: Trained, tmp_path: Path) -> None:
    before, after = (
        load_file(c.folder / "model.safetensors") for c in (network[1], aware(network, tmp_path, "arm", epochs=1))
    )
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[k].numpy(), before[k].numpy()) for k in before if "running" in k)


def test_its_rate_is_a_tenth_of_that_before(network: Trained, tmp_path: Path) -> None:
    applied = read_json(aware(network, tmp_path, "arm", epochs=1).folder / "applied.json")
    assert [group["peak_lr"] for group in applied["groups"]] == pytest.approx([3e-4] * len(applied["groups"]))
    assert applied["epochs"] == 1


@pytest.mark.parametrize("how", ["head", "lora"])
def test_a_frozen_body_is_refused_before_anything_is_trained(network: Trained, tmp_path: Path, how: str) -> None:
    asked, checkpoint = network
    frozen = Checkpoint(checkpoint.folder, "frozen")
    frozen.network["table"]["trainable"] = how
    with pytest.raises(RecipeError, match=rf"compress.qat: .*train.trainable = '{how}' keeps them frozen"):
        aware((asked, frozen), tmp_path, "x86")
    assert not (tmp_path / "work" / "train").exists()


def test_epochs_that_do_not_go_with_the_recipe_are_told(network: Trained, tmp_path: Path) -> None:
    asked, checkpoint = network
    averaged = replace(asked, table=asked.table.model_copy(update={"average_last": 3}))
    with pytest.raises(RecipeError, match=r"compress.qat: do not go with \[train\]: average_last = 3 of 1 epochs"):
        aware((averaged, checkpoint), tmp_path, "x86", epochs=1)
