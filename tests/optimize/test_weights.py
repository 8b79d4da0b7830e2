"""Weights in few bits: the arithmetic of each scheme, the size of the file, and who takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests import toy_networks as toy
from tests.families import passed
from tlcompile.artifacts import Graph
from tlcompile.errors import TlcompileError
from tlcompile.optimize import Context, weights
from tlcompile.parity import run_graph


def made_by(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], folder: Path) -> np.ndarray:
    """The weight that `nodes` make, as ONNX Runtime computes it."""
    out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [], [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "w.onnx")
    (found,) = run_graph(folder / "w.onnx", [{}])[0].values()
    return found


@pytest.mark.parametrize(("rows", "size"), [(64, 32), (48, 16), (128, 128)])
def test_int4_is_within_half_a_step_of_its_block(rows: int, size: int, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(0, 1, (rows, 6)).astype(np.float32)
    found = made_by(*weights._blocks(weight, size, "w"), tmp_path)
    for start in range(0, rows, size):
        block = weight[start : start + size]
        step = np.abs(block).max(0) / 7
        assert (np.abs(found[start : start + size] - block) <= 0.5001 * step).all()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 2]), st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(0, 9))
def test_packed_codes_are_unpacked_as_they_were(bits: int, shape: list[int], seed: int) -> None:
    import tempfile

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3 if bits == 2 else 2, shape).astype(np.uint8)
    scale = rng.uniform(0.5, 2, (shape[0], *[1] * (len(shape) - 1))).astype(np.float32)
    nodes, constants = weights._packed(codes, scale, bits, "w")
    expected = (codes.astype(np.float32) - 1) * scale if bits == 2 else np.where(codes, scale, -scale)
    with tempfile.TemporaryDirectory() as folder:
        assert np.allclose(made_by(nodes, constants, Path(folder)), expected)
    packed = next(c for c in constants if c.name.endswith("packed"))
    assert packed.dims[0] == -(-codes.size * bits // 8)


def test_ternary_and_binary_weights_follow_their_papers() -> None:
    weight = np.array([[4.0, -4.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0]], np.float32)
    codes, scale = weights.ternary(weight, 0)
    assert codes.tolist() == [[2, 0, 1, 1], [2, 2, 2, 2]]
    assert scale.reshape(-1).tolist() == [4, 1]
    codes, scale = weights.binary(weight, 0)
    assert codes.tolist() == [[1, 0, 1, 0], [1, 1, 1, 1]]
    assert scale.reshape(-1).tolist() == [2.5, 1]


def test_int4_keeps_the_labels_and_an_eighth_of_the_size_of_its_weights(tmp_path: Path) -> None:
    graph = toy.encoder(tmp_path / "graph", outlier=1.0)
    made = passed("weights", graph, tmp_path / "made", "x86", block_size=16)
    model = onnx.load(made.model)
    kinds = [i.data_type for i in model.graph.initializer]
    assert kinds.count(TensorProto.INT4) == 4
    codes = [i for i in model.graph.initializer if i.data_type == TensorProto.INT4]
    assert sum(len(i.raw_data) + len(i.int32_data) for i in codes) <= (3 * 256 + 64) / 2


@pytest.mark.parametrize(("scheme", "bits"), [("ternary", 2), ("binary", 1)])
@pytest.mark.parametrize("name", ["mobile", "encoder"])
def test_the_first_and_the_last_layer_stay_and_the_file_shrinks(
    name: str, scheme: str, bits: int, tmp_path: Path
) -> None:
    graph: Graph = getattr(toy, name)(tmp_path / "graph")
    made = passed("weights", graph, tmp_path / "made", "x86", scheme=scheme)
    constants = {i.name: i for i in onnx.load(made.model).graph.initializer}
    assert {"w1", "w4"} <= set(constants)
    assert not {"w2", "w3"} & set(constants)
    packed = [i for n, i in constants.items() if n.endswith("/packed")]
    assert sum(int(np.prod(i.dims)) for i in packed) <= bits * (256 + 256) / 8
    feeds = toy.image_feeds() if name == "mobile" else toy.text_feeds()
    assert all(np.isfinite(f["logits"]).all() for f in run_graph(made.model, feeds))


def test_an_engine_of_openvino_computes_what_the_graph_says(tmp_path: Path) -> None:
    from tlcompile.compile import build, open_engine, openvino

    graph = toy.encoder(tmp_path / "graph", outlier=1.0)
    feed = {k: v[:1] for k, v in toy.text_feeds()[0].items()}
    for scheme in ("int4", "ternary", "binary"):
        made = passed("weights", graph, tmp_path / scheme, "x86", scheme=scheme, block_size=16)
        (tmp_path / f"{scheme}-engine").mkdir()
        build("openvino", openvino.Options(), made, scheme, tmp_path / f"{scheme}-engine")
        runner = open_engine(tmp_path / f"{scheme}-engine")
        expected = run_graph(made.model, [feed])[0]["probabilities"]
        assert np.abs(runner.run(feed)["probabilities"] - expected).max() < 1e-3


def test_a_backend_without_such_weights_is_named() -> None:
    assert weights.refused(weights.Options(scheme="int4"), "openvino") == ""
    assert weights.refused(weights.Options(scheme="int4"), "tensorrt") == ""
    assert (
        weights.refused(weights.Options(scheme="binary"), "tensorrt_rtx") == "tensorrt_rtx does not take binary weights"
    )
    assert weights.refused(weights.Options(scheme="int4"), "another") == "another does not take int4 weights"


def test_a_graph_without_a_fitting_layer_is_told(tmp_path: Path) -> None:
    graph, context = toy.mobile(tmp_path / "graph"), Context("x86", lambda: iter(()))
    with pytest.raises(
        TlcompileError, match=r"optimize\.weights: nothing is left for int4 weights: the graph has no MatMul"
    ):
        weights.apply(graph.model, weights.Options(), context, tmp_path / "m.onnx")
    encoder = toy.encoder(tmp_path / "encoder")
    with pytest.raises(TlcompileError, match="the graph has no MatMul with a weight of a multiple of 32 rows"):
        weights.apply(encoder.model, weights.Options(), context, tmp_path / "m.onnx")
    with pytest.raises(TlcompileError, match="no layer between the first and the last"):
        weights.apply(graph.model, weights.Options(scheme="binary", exclude=("Conv*",)), context, tmp_path / "m.onnx")
