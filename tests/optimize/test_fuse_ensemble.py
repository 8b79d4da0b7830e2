"""Members in one graph answer as a plain loop over the members does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch

from tests.families import exported, passed
from tests.tiny import MODEL
from tlcompile import compile as backends
from tlcompile import parity, registry
from tlcompile.artifacts import Feed, Graph
from tlcompile.errors import RecipeError
from tlcompile.models import timm
from tlcompile.optimize import fuse_ensemble, fuse_tta
from tlcompile.optimize.fuse_ensemble import Member, Options


def images(count: int = 3) -> Feed:
    return {"image": np.random.default_rng(1).integers(0, 256, (count, 50, 70, 3), dtype=np.uint8)}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    """Two networks at 32 px, one at 48 px, and an int8 one."""
    folder = tmp_path_factory.mktemp("graphs")
    made = {}
    for name, seed, size in (("a", 0, 32), ("b", 1, 32), ("c", 2, 48)):
        torch.manual_seed(seed)
        options = {k: v for k, v in MODEL.items() if k != "library"} | {"image_size": size}
        network = timm.build(timm.Options(**options), 3)
        with torch.no_grad():
            network.module.classifier.weight.normal_(std=10)
        made[name] = passed("simplify", exported(network, [images()], folder / f"{name}-raw"), folder / name)
    made["int8"] = passed("quantize", made["b"], folder / "int8", "tensorrt", min_agreement=0.0)
    return made


def members(graphs: dict[str, Graph], *names: str) -> list[Member]:
    return [Member(name, onnx.load(graphs[name].model), graphs[name].signature) for name in names]


def save(model: onnx.ModelProto, graph: Graph, folder: Path) -> Graph:
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    (folder / "signature.json").write_bytes((graph.folder / "signature.json").read_bytes())
    return Graph(folder, "")


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@pytest.mark.parametrize("names", [("a", "b"), ("a", "c"), ("a", "int8", "c")])
@pytest.mark.parametrize("aggregation", ["probabilities", "logits", "max"])
def test_members_of_any_size_and_precision_answer_as_the_loop(
    graphs: dict[str, Graph], tmp_path: Path, names: tuple[str, ...], aggregation: str
) -> None:
    feed, heat = images(), (1.0, 2.0, 0.7)[: len(names)]
    weights = np.arange(1, len(names) + 1) / sum(range(1, len(names) + 1))
    given = {} if aggregation == "max" else {"weights": weights.tolist()}
    options = Options.model_validate({"aggregation": aggregation, "temperatures": heat, **given})
    made = save(fuse_ensemble.fuse(members(graphs, *names), options), graphs["a"], tmp_path / "f")
    z = np.stack([parity.run_graph(graphs[n].model, [feed])[0]["logits"] / t for n, t in zip(names, heat, strict=True)])
    w = weights[:, None, None]
    if aggregation == "max":
        expected = softmax(z).max(0) / softmax(z).max(0).sum(-1, keepdims=True)
    else:
        expected = softmax((w * z).sum(0)) if aggregation == "logits" else (w * softmax(z)).sum(0)
    found = parity.run_graph(made.model, [feed])[0]["probabilities"]
    assert np.abs(softmax(z[0]) - expected).max() > 1e-2
    assert np.abs(found - expected).max() < 1e-4
    compiled = openvino.Core().compile_model(made.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(compiled(feed)["probabilities"] - expected).max() < (0.1 if "int8" in names else 1e-2)


def test_preprocessing_is_shared_where_it_is_the_same(graphs: dict[str, Graph]) -> None:
    def count(model: onnx.ModelProto) -> int:
        return sum(node.name.startswith("preprocess/") for node in model.graph.node)

    alone = count(onnx.load(graphs["a"].model))
    same = fuse_ensemble.fuse(members(graphs, "a", "b"), Options())
    other = fuse_ensemble.fuse(members(graphs, "a", "c"), Options())
    assert count(same) == alone
    assert alone < count(other) < 2 * alone


def test_views_belong_to_members(graphs: dict[str, Graph], tmp_path: Path) -> None:
    views = fuse_tta.Options(views=("identity", "hflip", "zoom:1.3"))
    parts = [replace(m, model=fuse_tta.fuse(m.model, m.signature, views)) for m in members(graphs, "a", "c")]
    made = save(fuse_ensemble.fuse(parts, Options()), graphs["a"], tmp_path / "f")
    each = [fuse_tta.expected(graphs[name].model, views, [images()])[0]["probabilities"] for name in ("a", "c")]
    found = parity.run_graph(made.model, [images()])[0]["probabilities"]
    assert np.abs(found - np.mean(each, axis=0)).max() < 1e-4


def test_the_ensemble_builds_ahead_of_time_for_rtx(graphs: dict[str, Graph], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    made = save(fuse_ensemble.fuse(members(graphs, "a", "int8", "c"), Options()), graphs["a"], tmp_path / "f")
    module = registry.load("compile", "tensorrt_rtx")
    (tmp_path / "engine").mkdir()
    options = module.Options(compute_capability=["sm86"], image_px=[32, 64, 96], batch=[1, 1, 8])
    backends.build("tensorrt_rtx", options, made, "mixed", tmp_path / "engine")


def test_as_a_pass_it_reads_the_other_members_and_expects_the_loop(graphs: dict[str, Graph], tmp_path: Path) -> None:
    options = Options.model_validate({"members": [str(graphs["c"].model)]}, context={"base": Path("/")})
    fuse_ensemble.apply(graphs["a"].model, options, None, tmp_path / "m.onnx")  # type: ignore[arg-type]
    expected = fuse_ensemble.expected(graphs["a"].model, options, [images()])[0]["probabilities"]
    found = parity.run_graph(tmp_path / "m.onnx", [images()])[0]["probabilities"]
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("0", "1", "two"), "'two' is in one of them only"),
        (("1", "0", "2"), "in another order"),
        (("0", "1", "2", "3"), "has 4 classes, 'a' 3"),
    ],
)
def test_members_with_other_classes_are_told(graphs: dict[str, Graph], classes: tuple[str, ...], message: str) -> None:
    a, b = members(graphs, "a", "b")
    with pytest.raises(RecipeError, match=message):
        fuse_ensemble.fuse([a, replace(b, signature=replace(b.signature, classes=classes))], Options())


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("a", "a"), {}, "two members are called 'a'"),
        (("a",), {}, "at least two members"),
        (("a", "b"), {"weights": [0.5, 0.3, 0.2]}, "expected 2 numbers"),
        (("a", "b"), {"temperatures": [1.0]}, "expected 2 numbers"),
    ],
)
def test_members_and_weights_that_do_not_fit_are_told(
    graphs: dict[str, Graph], names: tuple[str, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        fuse_ensemble.fuse(members(graphs, *names), Options.model_validate(options))
