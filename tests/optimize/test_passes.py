"""Each pass on a small real graph, and the driver that holds it to its tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.tiny import MODEL
from tlcompile import optimize, parity, registry
from tlcompile.artifacts import Feed, Graph, ImageSpec, Signature, Tensor, read_json, write_json
from tlcompile.errors import ParityError, RecipeError, TlcompileError
from tlcompile.export.graph import assemble, save
from tlcompile.export.network import to_onnx
from tlcompile.models import timm
from tlcompile.optimize import Context, quantize, simplify
from tlcompile.options import Options
from tlcompile.recipe.tables import Plugin
from tlcompile.runtime import golden

FEEDS = [{"image": np.random.default_rng(i).integers(0, 256, (4, 40, 30, 3), dtype=np.uint8)} for i in range(3)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = tmp_path_factory.mktemp("graph")
    torch.manual_seed(0)
    network = timm.build(timm.Options(**{k: v for k, v in MODEL.items() if k != "library"}), 3)
    save(assemble(to_onnx(network, "torchscript", 18, folder / "model.onnx"), network, 18), folder / "model.onnx")
    tensor = (Tensor("image", "uint8", ("batch", "height", "width", 3)),)
    signature = Signature("image-classification", tensor, (), ("a", "b", "c"), network.spec)
    write_json(folder / "signature.json", signature.to_json())
    write_json(folder / "parity.json", [{"rung": "export"}])
    golden.save(folder / "golden.npz", FEEDS, parity.run_graph(folder / "model.onnx", FEEDS))
    return Graph(folder, "")


def feeds() -> Iterator[Feed]:
    yield from FEEDS


def context(dialect: str = "") -> Context:
    return Context(dialect, feeds)


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def test_simplify_leaves_no_batch_norm_and_no_computed_padding(graph: Graph, tmp_path: Path) -> None:
    optimize.run(Plugin("optimize", "simplify", simplify.Options()), graph, context(), tmp_path)
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert not kinds & {"BatchNormalization", "Identity", "Constant", "ConstantOfShape"}
    assert [r["rung"] for r in read_json(tmp_path / "parity.json")] == ["export", "optimize/simplify"]


@pytest.mark.parametrize(
    ("dialect", "activations", "largest_weight", "int32_bias"),
    [
        ("x86-vnni", np.uint8, 127, True),
        ("x86", np.uint8, 64, True),
        ("arm", np.int8, 127, True),
        ("tensorrt", np.int8, 127, False),
    ],
)
def test_int8_is_written_in_the_dialect_of_the_target(
    graph: Graph, tmp_path: Path, dialect: str, activations: type, largest_weight: int, int32_bias: bool
) -> None:
    quantize.apply(graph.model, quantize.Options(), context(dialect), tmp_path / "model.onnx")
    found = initializers(tmp_path / "model.onnx")
    weights = [v for v in found.values() if v.dtype == np.int8 and v.ndim == 4]
    assert weights
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= largest_weight
    model = onnx.load(tmp_path / "model.onnx")
    zero_points = [found[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {z.dtype for z in zero_points} == {np.dtype(activations)}
    if dialect == "tensorrt":
        assert not any(z.any() for z in zero_points)
    assert any(v.dtype == np.int32 and v.ndim == 1 for v in found.values()) == int32_bias
    per_channel = [
        found[n.input[1]] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in found
    ]
    assert any(scale.ndim == 1 and scale.size > 1 for scale in per_channel)


def test_preprocessing_and_softmax_stay_in_fp32(graph: Graph, tmp_path: Path) -> None:
    quantize.apply(graph.model, quantize.Options(), context("x86"), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    for node in model.graph.node:
        if node.name.startswith("preprocess/") or node.op_type == "Softmax":
            assert not dequantized & set(node.input) or node.op_type == "Softmax"


def test_an_excluded_node_that_is_not_there_is_told_with_the_nearest(graph: Graph, tmp_path: Path) -> None:
    name = next(n.name for n in onnx.load(graph.model).graph.node if n.op_type == "Conv")
    with pytest.raises(RecipeError, match=f"did you mean '{name}'"):
        quantize.apply(graph.model, quantize.Options(exclude=(name + "x",)), context("x86"), tmp_path / "m.onnx")


def corrupting(how: str) -> ModuleType:
    """A pass with a fault: it says that it changes nothing."""
    module = ModuleType(how)

    def apply(model: Path, options: Options, context: Context, target: Path) -> None:
        loaded = onnx.load(model)
        weights = [i for i in loaded.graph.initializer if len(i.dims) == 4 and not i.name.startswith("preprocess/")]
        if how == "corrupts a weight":
            value = numpy_helper.to_array(weights[0]).copy()
            value.flat[0] += 100
            weights[0].CopyFrom(numpy_helper.from_array(value, weights[0].name))
        elif how == "swaps two channels":
            value = numpy_helper.to_array(weights[-1]).copy()
            value[:, [0, 1]] = value[:, [1, 0]]
            weights[-1].CopyFrom(numpy_helper.from_array(value, weights[-1].name))
        else:
            node = next(
                n for n in loaded.graph.node if n.op_type in ("Relu", "Clip", "Sigmoid") and "preprocess" not in n.name
            )
            for other in loaded.graph.node:
                for i, name in enumerate(other.input):
                    if name == node.output[0]:
                        other.input[i] = node.input[0]
            loaded.graph.node.remove(node)
        onnx.save(loaded, target)

    vars(module).update(
        apply=apply, variant=lambda o: "", tolerance=lambda o: parity.Tolerance(1e-6, 1.0), Options=Options, PACKAGES=()
    )
    return module


@pytest.mark.parametrize("how", ["corrupts a weight", "swaps two channels", "drops a node"])
def test_a_pass_that_breaks_the_graph_is_named(
    graph: Graph, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = corrupting(how)
    monkeypatch.setattr(registry, "load", lambda room, name, where="": faulty)
    with pytest.raises(ParityError, match="optimize/faulty: changed the outputs too much against export"):
        optimize.run(Plugin("optimize", "faulty", Options()), graph, context(), tmp_path)


def with_corner(path: Path, gain: float) -> None:
    """image -> logits: the mean of each colour, and `gain` times the last pixel where the image is at most 32 wide."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=0),
        helper.make_node("Shape", ["image"], ["width"], start=2, end=3),
        helper.make_node("LessOrEqual", ["width", "limit"], ["small"]),
        helper.make_node("Cast", ["small"], ["switch"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["real", "last"], ["row"], axis=1),
        helper.make_node("Gather", ["row", "last"], ["pixel"], axis=1),
        helper.make_node("Mul", ["pixel", "gain"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "switch"], ["corner"]),
        helper.make_node("Add", ["mean", "corner"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in ("logits", "probabilities")]
    values = {"limit": np.array([32]), "last": np.array(-1), "gain": np.float32(gain), "axes": np.array([1, 2])}
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    made = helper.make_graph(nodes, "g", [image], outputs, constants)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.parametrize("gain", [1.0, 0.9])
def test_a_fault_that_no_example_shows_is_named(tmp_path: Path, gain: float) -> None:
    wide = [{"image": np.ascontiguousarray(feed["image"].swapaxes(1, 2))} for feed in FEEDS]
    folder, after = tmp_path / "before", tmp_path / "after"
    folder.mkdir()
    after.mkdir()
    with_corner(folder / "model.onnx", 1.0)
    signature = Signature("image-classification", (), (), ("a", "b", "c"), ImageSpec(32))
    write_json(folder / "signature.json", signature.to_json())
    write_json(folder / "parity.json", [{"rung": "export"}])
    golden.save(folder / "golden.npz", wide, parity.run_graph(folder / "model.onnx", wide))
    module = ModuleType("given")
    vars(module).update(
        apply=lambda model, options, context, target: with_corner(target, gain),
        variant=lambda options: "",
        tolerance=simplify.tolerance,
    )
    step: Any = SimpleNamespace(name="given", module=module, options=Options())
    if gain == 1.0:
        optimize.run(step, Graph(folder, ""), context(), after)
        return
    with pytest.raises(ParityError, match=r"optimize/given \(exact pixels\): changed the outputs too much"):
        optimize.run(step, Graph(folder, ""), context(), after)


@pytest.mark.parametrize("name", registry.names("optimize"))
def test_every_pass_keeps_the_contract_of_the_room(name: str) -> None:
    module = registry.load("optimize", name)
    options = module.Options()
    assert isinstance(module.ON_BY_DEFAULT, bool)
    assert isinstance(module.variant(options), str)
    assert isinstance(module.tolerance(options), parity.Tolerance)
    assert module.PACKAGES


def test_a_graph_that_can_not_be_quantized_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(TlcompileError, match=r"optimize\.quantize"):
        quantize.apply(tmp_path / "m.onnx", quantize.Options(), context("x86"), tmp_path / "out.onnx")
