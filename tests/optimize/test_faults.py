"""A pass that corrupts a graph is named, however small the fault; a sound one never is."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from benchmarks.parity_faults import EVERYWHERE, ONCE, RANGES
from tests.families import exported, feeds_of, passed, text_folder
from tests.tiny import MODEL
from tlcompile import optimize, parity, registry
from tlcompile.artifacts import Graph, read_json
from tlcompile.errors import ParityError
from tlcompile.models import timm, transformers
from tlcompile.models._network import Network
from tlcompile.optimize import _held, half, quantize
from tlcompile.runtime import golden

DIALECTS, LOWER = ("x86", "tensorrt"), ("half", "bf16")
FAULTS = {**EVERYWHERE, **ONCE}


def lively(network: Network) -> Network:
    """Statistics of random pictures, so that no layer is dead."""
    module = network.module.train()
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        module(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    module.eval()
    return network


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    """export, simplify, half, bf16 and quantize of a small convolutional network; sound, so none of them is refused."""
    root = tmp_path_factory.mktemp("ladder")
    torch.manual_seed(0)
    network = lively(timm.build(timm.Options(**{k: v for k, v in MODEL.items() if k != "library"}), 3))
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.integers(0, 256, (8, 40, 30 + 10 * i, 3), dtype=np.uint8)} for i in range(2)]
    graphs = {"export": exported(network, feeds, root / "export")}
    graphs["simplify"] = passed("simplify", graphs["export"], root / "simplify")
    for lower in LOWER:
        graphs[lower] = passed(lower, graphs["simplify"], root / lower)
    for dialect in DIALECTS:
        graphs[dialect] = passed("quantize", graphs["simplify"], root / dialect, dialect, min_agreement=0.0)
    return graphs


def run_faulty(name: str, dialect: str, before: Graph, model: Path, folder: Path) -> None:
    """The driver, given a pass that writes `model` and is otherwise the true one."""
    module = registry.load("optimize", name)
    faulty = SimpleNamespace(**{**vars(module), "apply": lambda *given: shutil.copyfile(model, given[-1])})
    options = module.Options(**({"min_agreement": 0.0} if name == "quantize" else {}))
    step: Any = SimpleNamespace(name=name, module=faulty, options=options)
    folder.mkdir()
    optimize.run(step, before, optimize.Context(dialect, lambda: iter(())), folder)


def planted(graph: Graph, fault: str, path: Path) -> float:
    """Write the graph with the fault to `path`; how far it moves the logits, 0.0 where it has no place for it."""
    model = onnx.load(graph.model)
    if not FAULTS[fault](model.graph, 0.5):
        return 0.0
    onnx.save(model, path)
    feeds = parity.probes(golden.load(graph.folder / "golden.npz")[0], graph.signature)
    return parity.logits_moved(parity.run_graph(path, feeds), parity.run_graph(graph.model, feeds)) or 0.0


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("rung", "step"), [*((p, p) for p in LOWER), *((d, "quantize") for d in DIALECTS)])
def test_a_fault_behind_a_change_of_precision_is_named(
    ladder: dict[str, Graph], rung: str, step: str, fault: str, tmp_path: Path
) -> None:
    moved = planted(ladder[rung], fault, tmp_path / "faulty.onnx")
    own = read_json(ladder[rung].folder / "parity.json")[-1]["logits"]
    if not moved > 2 * (own if fault in RANGES else 3e-4):
        pytest.skip(f"the graph has no place for it, or it moves the logits by {moved:.1e} only")
    dialect = rung if step == "quantize" else ""
    with pytest.raises(ParityError, match=rf"optimize/{step} \({dialect}\): "):
        run_faulty(step, dialect, ladder["simplify"], tmp_path / "faulty.onnx", tmp_path / "made")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_base_pass_is_named(ladder: dict[str, Graph], fault: str, tmp_path: Path) -> None:
    moved = planted(ladder["simplify"], fault, tmp_path / "faulty.onnx")
    if not moved > 6e-4:
        pytest.skip(f"the graph has no place for it, or it moves the logits by {moved:.1e} only")
    with pytest.raises(ParityError, match=r"optimize/simplify: "):
        run_faulty("simplify", "", ladder["export"], tmp_path / "faulty.onnx", tmp_path / "made")


def test_the_constant_that_was_corrupted_is_named(ladder: dict[str, Graph], tmp_path: Path) -> None:
    model = onnx.load(ladder["x86"].model)
    weight = next(i for i in model.graph.initializer if i.name.endswith("weight_quantized") and len(i.dims) == 4)
    value = numpy_helper.to_array(weight).copy()
    value.flat[3] = np.int8(-64 if value.flat[3] > 0 else 64)
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    onnx.save(model, tmp_path / "m.onnx")
    name = weight.name.removesuffix("_quantized")
    with pytest.raises(ParityError, match=rf"the constant '{name}' is off by .* steps of its scale"):
        _held.check("int8", ladder["simplify"].model, tmp_path / "m.onnx", [])


def test_a_step_up_or_down_is_rounding(ladder: dict[str, Graph], tmp_path: Path) -> None:
    """A pass may round each weight up or down as it sees fit."""
    old, new = onnx.load(ladder["simplify"].model), onnx.load(ladder["x86"].model)
    assert _held.constants_moved(old, new) == []
    scales = {n.input[0]: n.input[1] for n in new.graph.node if n.op_type == "DequantizeLinear"}
    found = {i.name: i for i in new.graph.initializer}
    weight = next(i for i in new.graph.initializer if i.name in scales and len(i.dims) == 4)
    original = next(i for i in old.graph.initializer if i.name == weight.name.removesuffix("_quantized"))
    scale = numpy_helper.to_array(found[scales[weight.name]]).reshape(-1, 1, 1, 1)
    exact = numpy_helper.to_array(original) / scale
    other_way = np.where(numpy_helper.to_array(weight) > exact, np.floor(exact), np.ceil(exact)).astype(np.int8)
    weight.CopyFrom(numpy_helper.from_array(other_way, weight.name))
    assert _held.constants_moved(old, new) == []


@pytest.mark.parametrize("family", ["deberta", "bert"])
def test_activations_that_overflow_half_stay_in_fp32_and_a_pass_that_forgets_them_is_named(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in pretrained DeBERTa: a few features of the feed-forward layers are beyond 65504."""
    folder = text_folder(tmp_path / "model", family)
    values = {"name": str(folder), "max_length": 64}
    network = transformers.build(transformers.Options.model_validate(values, context={"base": tmp_path}), 3)
    overflowing(network)
    base = passed("simplify", exported(network, feeds_of(network), tmp_path / "export"), tmp_path / "simplify")
    check_half(base, tmp_path, monkeypatch)


def test_a_vision_transformer_that_overflows_half_is_kept_in_fp32_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = timm.build(timm.Options(name="test_vit", weights="none", image_size=32, crop_pct=1.0), 3)
    with torch.no_grad():
        torch.nn.init.normal_(network.module.head.weight)
    overflowing(network)
    feeds = [{"image": np.random.default_rng(0).integers(0, 256, (8, 40, 30, 3), dtype=np.uint8)}]
    base = passed("simplify", exported(network, feeds, tmp_path / "export"), tmp_path / "simplify")
    check_half(base, tmp_path, monkeypatch)


def overflowing(network: Network) -> None:
    """The widest hidden layer answers a million times larger, the layer behind it takes that off."""
    layers = [m for m in network.module.modules() if isinstance(m, torch.nn.Linear)]
    up, down = next((a, b) for a, b in pairwise(layers) if a.in_features < a.out_features == b.in_features)
    with torch.no_grad():
        up.weight.mul_(1e6)
        up.bias.mul_(1e6)
        down.weight.mul_(1e-6)


def check_half(base: Graph, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = passed("half", base, root / "half")
    kept = [n for n in onnx.load(made.model).graph.node if n.name.endswith("/fp32/Cast")]
    assert kept
    monkeypatch.setattr(half, "stays", lambda node, peaks, limit: node.name.startswith("preprocess/"))
    with pytest.raises(ParityError, match=r"optimize/half \(\)"):
        passed("half", base, root / "all in half")


def test_options_of_quantize_that_rewrite_the_graph_first_are_no_false_alarm(
    ladder: dict[str, Graph], tmp_path: Path
) -> None:
    if "equalize" not in quantize.Options.model_fields:
        pytest.skip("quantize has no such option")
    options = {"equalize": True, "bias_correction": True, "min_agreement": 0.0}
    made = passed("quantize", ladder["simplify"], tmp_path / "made", "x86", **options)
    assert not (made.folder / optimize.REFERENCE).exists()
