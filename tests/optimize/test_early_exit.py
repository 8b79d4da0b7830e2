"""The first voice answers alone where it is sure, in the graph as in numpy, whatever else is in the batch."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime import InferenceSession, SessionOptions

from tests.families import exported, passed, text_folder
from tests.tiny import MODEL
from tlcompile import compile as backends
from tlcompile import parity, registry
from tlcompile.artifacts import Feed, Graph, write_json
from tlcompile.confidence import confidence
from tlcompile.errors import RecipeError
from tlcompile.models import timm, transformers
from tlcompile.optimize import fuse_ensemble, fuse_tta
from tlcompile.optimize._views_mean import aggregate
from tlcompile.optimize._views_outputs import view_outputs

VIEWS = ("identity", "hflip", "rot90")


def images(count: int = 12) -> Feed:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)
    pixels[:, :20, :16] //= 4
    return {"image": pixels}


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    made = timm.build(timm.Options.model_validate({k: v for k, v in MODEL.items() if k != "library"}), 3)
    made.module.train()
    head: Any = made.module.classifier
    with torch.no_grad():
        for _ in range(10):  # statistics of the norms
            made.module(torch.randn(16, 3, 32, 32))
        made.module.eval()
        head.weight.copy_(torch.randn_like(head.weight))
        head.weight.mul_(3 / made.module(torch.randn(32, 3, 32, 32)).std())
    return made


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    folder = tmp_path_factory.mktemp("graphs")
    found = {}
    for name, seed in (("fp32", 0), ("other", 1)):
        raw = exported(network(seed), [images(4)], folder / f"raw-{name}")
        found[name] = passed("simplify", raw, folder / name)
    found["int8"] = passed("quantize", found["fp32"], folder / "int8", "x86", min_agreement=0.0)
    return found


def opened(model: onnx.ModelProto, graph: Graph, folder: Path, backend: str, precision: str = "fp32") -> Any:
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    (folder / "signature.json").write_bytes((graph.folder / "signature.json").read_bytes())
    engine = folder / "engine"
    engine.mkdir()
    options = registry.load("compile", backend).Options(threads=1)
    backends.build(backend, options, Graph(folder, ""), precision, engine)
    return backends.open_engine(engine)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("aggregation", ["probabilities", "logits"])
def test_an_example_is_answered_alike_alone_and_among_others(
    graphs: dict[str, Graph], tmp_path: Path, precision: str, backend: str, aggregation: Any
) -> None:
    graph, feed = graphs[precision], images()
    logits = view_outputs(graph, [feed], VIEWS)
    first, every = aggregate(logits[:1], "softmax", aggregation), aggregate(logits, "softmax", aggregation)
    sure = np.sort(confidence(first, several=False))
    gap = int(np.diff(sure)[3:-3].argmax()) + 3  # the border is where no example is near it
    options = fuse_tta.Options(views=VIEWS, aggregation=aggregation, exit_at=float(sure[gap : gap + 2].mean()))
    leaves = confidence(first, several=False) >= options.exit_at
    assert 3 <= leaves.sum() <= 9
    model = fuse_tta.fuse(onnx.load(graph.model), graph.signature, options)
    engine = opened(model, graph, tmp_path / "f", backend, precision)
    together = engine.run(feed)["probabilities"]
    single = [engine.run({"image": feed["image"][i : i + 1]})["probabilities"][0] for i in range(12)]
    allowed = {"onnxruntime": 1e-4, "openvino": 1e-2}[backend] if precision == "fp32" else 0.1
    assert np.abs(together - np.stack(single)).max() < (1e-4 if precision == "fp32" else allowed)
    assert np.abs(together - np.where(leaves[:, None], first, every)).max() < allowed
    assert np.abs(first - every)[~leaves].max() > 0.1


@pytest.mark.parametrize("how", [{}, {"weights": (0.7, 0.3), "temperatures": (1.5, 0.8)}])
def test_the_first_member_answers_alone_where_it_is_sure(
    graphs: dict[str, Graph], tmp_path: Path, how: dict[str, Any]
) -> None:
    feed, first = images(), graphs["fp32"]
    options = fuse_ensemble.Options(members=(str(graphs["other"].model),), **how)
    heat = how.get("temperatures", (1.0,))[0]
    sure = aggregate(parity.run_graph(first.model, [feed])[0]["logits"][None], "softmax", temperature=heat).max(-1)
    options = options.model_copy(update={"exit_at": float(np.sort(sure)[5:7].mean())})
    [expected] = fuse_ensemble.expected(first.model, options, [feed])
    fuse_ensemble.apply(first.model, options, None, tmp_path / "model.onnx")  # type: ignore[arg-type]
    found = InferenceSession(tmp_path / "model.onnx").run(["probabilities"], feed)[0]
    assert np.abs(found - expected["probabilities"]).max() < 1e-4
    never, always = (options.model_copy(update={"exit_at": at}) for at in (1.01, 1e-6))
    [every], [alone] = (fuse_ensemble.expected(first.model, each, [feed]) for each in (never, always))
    moved = np.abs(every["probabilities"] - alone["probabilities"]).max(-1)
    stays = np.abs(found - every["probabilities"]).max(-1) < 1e-4
    assert moved.max() > 0.1
    assert 3 <= stays.sum() < 12
    both = sum(graphs[name].model.stat().st_size for name in ("fp32", "other"))
    assert (tmp_path / "model.onnx").stat().st_size < 1.3 * both


def convolutions_run(model: onnx.ModelProto, feed: Feed, folder: Path) -> int:
    """As ONNX Runtime's profile counts them."""
    options = SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = InferenceSession(model.SerializeToString(), options)
    session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text())
    return sum("Conv" in event.get("args", {}).get("op_name", "") for event in events)


def test_what_leaves_early_computes_no_other_view(graphs: dict[str, Graph], tmp_path: Path) -> None:
    graph, one = graphs["fp32"], images(1)
    plain = convolutions_run(onnx.load(graph.model), one, tmp_path)
    assert plain > 5
    for exit_at, times in ((1e-6, 1), (1.0, 2)):
        options = fuse_tta.Options(views=VIEWS, exit_at=exit_at)
        model = fuse_tta.fuse(onnx.load(graph.model), graph.signature, options)
        assert convolutions_run(model, one, tmp_path) == times * plain


def test_openvino_takes_one_branch_only(graphs: dict[str, Graph], tmp_path: Path) -> None:
    graph, one = graphs["fp32"], {"image": np.zeros((1, 256, 256, 3), np.uint8)}
    views = ("identity", *(f"zoom:{1 + i / 10}" for i in range(1, 6)))  # each resizes the large picture anew
    engines = {}
    for name, exit_at in (("always", 1e-6), ("never", 1.0)):
        options = fuse_tta.Options(views=views, exit_at=exit_at)
        model = fuse_tta.fuse(onnx.load(graph.model), graph.signature, options)
        engines[name] = opened(model, graph, tmp_path / name, "openvino")
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(12):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.run(one)
            taken[name].append(time.perf_counter() - start)
    assert min(taken["never"]) > 1.8 * min(taken["always"])


def test_weights_that_only_the_branch_reads_are_in_it_alone(graphs: dict[str, Graph]) -> None:
    members = [
        fuse_ensemble.Member(name, onnx.load(graphs[name].model), graphs[name].signature) for name in ("fp32", "other")
    ]
    model = fuse_ensemble.fuse(members, fuse_ensemble.Options(members=("a.onnx",), exit_at=0.9))
    branch = next(a.g for n in model.graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch")
    tensors = [tensor for graph in (model.graph, branch) for tensor in graph.initializer]
    large = [numpy_helper.to_array(tensor).tobytes() for tensor in tensors if len(tensor.dims) == 4]
    assert len(large) == len(set(large)) > 5


def test_several_labels_leave_by_the_least_certain_one() -> None:
    sure = confidence(np.array([[0.99, 0.02, 0.5], [0.9, 0.1, 0.95]]), several=True)
    assert sure.tolist() == [0.5, 0.9]


def test_texts_leave_early_too(tmp_path: Path) -> None:
    made = transformers.build(
        transformers.Options.model_validate({"name": str(text_folder(tmp_path / "bert", "bert")), "max_length": 16}), 3
    )
    ids = np.array([[0, 5, 6, 2]])
    graph = exported(made, [{"input_ids": ids, "attention_mask": np.ones_like(ids)}], tmp_path / "graph")
    write_json(graph.folder / "signature.json", graph.signature.to_json())
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.zeros((6, 1), int), rng.integers(4, 18, (6, 40)), np.full((6, 1), 2)], axis=1)
    feed = {"input_ids": rows, "attention_mask": np.ones_like(rows)}
    logits = view_outputs(graph, [feed], ("head", "tail"))
    first, every = aggregate(logits[:1], "softmax"), aggregate(logits, "softmax")
    threshold = float(np.median(first.max(-1)))
    model = fuse_tta.fuse(
        onnx.load(graph.model), graph.signature, fuse_tta.Options(views=("head", "tail"), exit_at=threshold)
    )
    found = InferenceSession(model.SerializeToString()).run(["probabilities"], feed)[0]
    leaves = first.max(-1) >= threshold
    assert 0 < leaves.sum() < 6
    assert np.abs(found - np.where(leaves[:, None], first, every)).max() < 1e-4


def test_a_number_can_not_leave_early(graphs: dict[str, Graph]) -> None:
    signature = replace(graphs["fp32"].signature, labels="number")
    with pytest.raises(RecipeError, match="is for classes, from two views on"):
        fuse_tta.fuse(onnx.load(graphs["fp32"].model), signature, fuse_tta.Options(exit_at=0.9))
    members = [fuse_ensemble.Member(name, onnx.load(graphs["fp32"].model), signature) for name in "ab"]
    with pytest.raises(RecipeError, match="a number has no confidence"):
        fuse_ensemble.fuse(members, fuse_ensemble.Options(members=("a.onnx",), exit_at=0.9))
