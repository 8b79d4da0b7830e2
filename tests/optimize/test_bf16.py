"""bf16 in the graph: what is in bf16, what stays in fp32, how it is judged, and who runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from onnx import TensorProto, helper, numpy_helper

from tests.families import exported, feeds_of, passed, rungs, text_folder
from tests.optimize.test_faults import lively, overflowing
from tests.tiny import MODEL
from tests.toy_graphs import chain
from tests.toy_recipe import SMALLEST
from tlcompile import compile as backends
from tlcompile import emulation, parity, registry
from tlcompile.artifacts import Feed, Graph, read_json
from tlcompile.errors import ParityError, RecipeError, TlcompileError
from tlcompile.models import timm, transformers
from tlcompile.optimize import Context, _held, bf16
from tlcompile.pipeline.plan import plan
from tlcompile.recipe import parse
from tlcompile.runtime import golden
from tlcompile.store import Store


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    root = tmp_path_factory.mktemp("graph")
    torch.manual_seed(0)
    network = lively(timm.build(timm.Options(**{k: v for k, v in MODEL.items() if k != "library"}), 3))
    return passed("simplify", exported(network, feeds_of(network), root / "export"), root / "simplify")


@pytest.fixture(scope="module")
def made(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return passed("bf16", graph, tmp_path_factory.mktemp("bf16"))


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    return found | {i.name: i.data_type for i in inferred.initializer}


def apply(folder: Path) -> onnx.ModelProto:
    bf16.apply(folder / "m.onnx", bf16.Options(), Context("", lambda: iter(())), folder / "b.onnx")
    return onnx.load(folder / "b.onnx")


def test_the_network_computes_in_bf16_and_preprocessing_and_the_answer_in_fp32(graph: Graph, made: Graph) -> None:
    model = onnx.load(made.model)
    known = types(model)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert convolutions
    assert {known[name] for n in convolutions for name in (*n.input, *n.output)} == {TensorProto.BFLOAT16}
    first = [n for n in model.graph.node if n.name.startswith("preprocess/")]
    assert TensorProto.BFLOAT16 not in {known[name] for n in first for name in (*n.input, *n.output)}
    head = next(n for n in model.graph.node if "logits" in n.output)
    assert {known[name] for name in (*head.input, *head.output)} == {TensorProto.FLOAT}
    assert {known[value.name] for value in model.graph.output} == {TensorProto.FLOAT}
    assert rungs(made) == ["export", "optimize/simplify", "optimize/bf16 ()"]
    assert made.model.stat().st_size < 0.75 * graph.model.stat().st_size


def stored(value: np.ndarray | np.float32) -> np.ndarray:
    """Rounded to bf16, in fp32."""
    return np.asarray(value).astype(bfloat16).astype(np.float32)


VALUES = st.floats(-100, 100, width=16, allow_subnormal=False)


@given(scale=st.floats(2.0**-60, 2.0**60, width=32), values=st.lists(VALUES, min_size=4, max_size=4))
def test_the_judge_rounds_what_is_stored_in_bf16_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, scale: float, values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    chain(folder / "m.onnx", scale)
    apply(folder)
    x = np.array([values], np.float32)
    by = stored(np.float32(scale))
    expected = stored(stored(stored(x) * by) / by) + np.float32(1)
    found = parity.run_graph(folder / "b.onnx", [{"x": x}])[0]["logits"]
    assert np.array_equal(found, expected)


def test_a_network_that_overflows_half_runs_in_bf16_throughout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.build(timm.Options(name="test_vit", weights="none", image_size=32, crop_pct=1.0), 3)
    torch.nn.init.normal_(network.module.head.weight)
    overflowing(network)
    feeds = [{"image": np.random.default_rng(0).integers(0, 256, (8, 40, 30, 3), dtype=np.uint8)}]
    base = passed("simplify", exported(network, feeds, tmp_path / "export"), tmp_path / "simplify")
    halved = onnx.load(passed("half", base, tmp_path / "half").model)
    model = onnx.load(passed("bf16", base, tmp_path / "bf16").model)

    def products(model: onnx.ModelProto, kind: int) -> int:
        known = types(model)
        found = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
        return sum(known[n.output[0]] == kind for n in found if not n.name.startswith("preprocess/"))

    assert products(halved, TensorProto.FLOAT) > 0
    assert products(model, TensorProto.FLOAT) == 1  # the one that makes the logits
    assert products(model, TensorProto.BFLOAT16) > products(halved, TensorProto.FLOAT16)


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert"])
def test_positions_buckets_and_angles_are_not_rounded(family: str, tmp_path: Path) -> None:
    values = {"name": str(text_folder(tmp_path / "model", family)), "max_length": 64}
    network = transformers.build(transformers.Options.model_validate(values, context={"base": tmp_path}), 3)
    base = passed("simplify", exported(network, feeds_of(network), tmp_path / "export"), tmp_path / "simplify")
    model = onnx.load(passed("bf16", base, tmp_path / "bf16").model)
    known = types(model)
    angles = [n for n in model.graph.node if n.op_type in ("Sin", "Cos")]
    indices = [n for n in model.graph.node if n.op_type == "Cast" and known[n.output[0]] == TensorProto.INT64]
    assert TensorProto.BFLOAT16 not in {known[name] for n in (*angles, *indices) for name in n.input}
    assert any(known[name] == TensorProto.BFLOAT16 for n in model.graph.node for name in n.output)


def test_a_number_beyond_256_is_an_index_still(tmp_path: Path) -> None:
    """logits = table[round(x) + 1]: rounded to bf16, 300 and 301 were one number."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n"])
    nodes = [
        helper.make_node("Add", ["x", "one"], ["next"], name="add"),
        helper.make_node("Cast", ["next"], ["index"], name="cast", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["logits"], name="gather"),
    ]
    table = np.arange(400, dtype=np.float32)
    constants = [numpy_helper.from_array(np.float32(1), "one"), numpy_helper.from_array(table, "table")]
    made = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    apply(tmp_path)
    found = parity.run_graph(tmp_path / "b.onnx", [{"x": np.array([299.0, 300.0], np.float32)}])[0]["logits"]
    assert found.tolist() == [300.0, 301.0]


def test_a_wrong_constant_is_told_from_one_that_was_rounded(graph: Graph, made: Graph) -> None:
    old, new = onnx.load(graph.model), onnx.load(made.model)
    assert _held.constants_moved(old, new) == []
    weight = next(i for i in new.graph.initializer if i.name.endswith("/bf16") and len(i.dims) == 4)
    value = numpy_helper.to_array(weight).astype(np.float32)
    value.flat[0] *= 1.02  # three steps of bf16 or more
    weight.CopyFrom(numpy_helper.from_array(value.astype(bfloat16), weight.name))
    assert [name for name, _ in _held.constants_moved(old, new)] == [weight.name]


def test_views_are_fused_behind_it(made: Graph, tmp_path: Path) -> None:
    fused = passed("fuse_tta", made, tmp_path, views=("identity", "hflip"))
    assert rungs(fused)[-1].startswith("optimize/fuse_tta")


def test_branches_are_emulated_too() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    branches = {}
    for name, factor in (("then_branch", 3.0), ("else_branch", 1 / 3)):
        constant = numpy_helper.from_array(np.array([factor], np.float32).astype(bfloat16), f"{name}/factor")
        inner = [
            helper.make_node("Mul", ["lower", f"{name}/factor"], [f"{name}/product"], name=f"{name}/mul"),
            helper.make_node("Add", [f"{name}/product", "lower"], [f"{name}/out"], name=f"{name}/add"),
        ]
        out = helper.make_tensor_value_info(f"{name}/out", TensorProto.BFLOAT16, [1])
        branches[name] = helper.make_graph(inner, name, [], [out], [constant])
    nodes = [
        helper.make_node("Cast", ["x"], ["lower"], name="to", to=TensorProto.BFLOAT16),
        helper.make_node("Greater", ["x", "zero"], ["positive"], name="positive"),
        helper.make_node("If", ["positive"], ["chosen"], name="if", **branches),
        helper.make_node("Cast", ["chosen"], ["y"], name="back", to=TensorProto.FLOAT),
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    made = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.zeros(1, np.float32), "zero")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = _held._session(emulation.computable(model))
    for value, factor in ((1.2345, 3.0), (-1.2345, 1 / 3)):
        lower = stored(np.array([value], np.float32))
        expected = stored(stored(lower * stored(np.float32(factor))) + lower)
        assert session.run(None, {"x": np.array([value], np.float32)})[0] == expected


def test_a_graph_without_bf16_is_left_alone(graph: Graph, tmp_path: Path) -> None:
    model = onnx.load(graph.model)
    assert emulation.computable(model) is model
    assert emulation.stand_in(graph, tmp_path / "none") is graph


def test_a_backend_without_bf16_says_so_before_anything_is_built(tmp_path: Path) -> None:
    text = SMALLEST + '[optimize.bf16]\n[[compile]]\nbackend = "onnxruntime"\nvariants = ["bf16"]\n'
    with pytest.raises(RecipeError, match=r"'bf16': onnxruntime does not compute in bf16; fp32 or fp16 runs there"):
        plan(parse(text), Store(tmp_path / "store"))


def test_every_backend_either_takes_it_or_is_refused() -> None:
    told = {name: bf16.refused(bf16.Options(), name) for name in registry.names("compile")}
    assert {name for name, reason in told.items() if not reason} == {"openvino", "tensorrt", "tensorrt_rtx"}


def test_openvino_runs_it_and_keeps_its_weights_in_bf16(graph: Graph, made: Graph, tmp_path: Path) -> None:
    sizes = {}
    for name, source in (("fp32", graph), ("bf16", made)):
        (tmp_path / name).mkdir()
        backends.build("openvino", registry.load("compile", "openvino").Options(), source, name, tmp_path / name)
        sizes[name] = (tmp_path / name / "model.bin").stat().st_size
    assert sizes["bf16"] < 0.75 * sizes["fp32"]
    runner = backends.open_engine(tmp_path / "bf16")
    feeds, _ = golden.load(made.folder / "golden.npz")
    answers: list[Feed] = [runner.run(feed) for feed in parity.probes(feeds, made.signature)]
    before = read_json(made.folder / "parity.json")[-1]
    for rung in parity.compare_engine("openvino-bf16", before, answers, made.model, feeds, "bf16", made.signature):
        parity.check(rung)


def test_tensorrt_rtx_multiplies_in_bf16_and_turing_is_refused_in_a_sentence(made: Graph, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    rtx = registry.load("compile", "tensorrt_rtx")
    wide = {"image_px": (32, 48, 64), "batch": (1, 1, 8)}
    for capability in ("sm86", "sm75"):
        (tmp_path / capability).mkdir()
    backends.build("tensorrt_rtx", rtx.Options(compute_capability=("sm86",), **wide), made, "bf16", tmp_path / "sm86")
    layers = read_json(tmp_path / "sm86" / "layers-sm86.json")
    assert any("BFloat16" in layer["inputs"] and layer["kind"] == "correlation" for layer in layers)
    with pytest.raises(TlcompileError, match="sm75 has no bf16: ship the fp16 variant there"):
        backends.build("tensorrt_rtx", rtx.Options(compute_capability=("sm75",), **wide), made, "", tmp_path / "sm75")


def test_a_pass_that_rounds_the_preprocessing_is_named(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns of a picture from 256 on have no number of their own in bf16, and grey levels are rounded."""
    monkeypatch.setattr(bf16, "stays", lambda node, exact: node.op_type in ("Range", "Round"))
    with pytest.raises(ParityError, match=r"optimize/bf16 \(\)"):
        passed("bf16", graph, tmp_path / "all in bf16")


def test_a_file_that_is_no_graph_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(TlcompileError, match=r"optimize\.bf16: this graph can't be turned into bf16"):
        apply(tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_agreement_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="min_agreement"):
        bf16.Options(min_agreement=share)
