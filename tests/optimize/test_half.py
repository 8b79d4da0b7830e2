"""fp16 in the graph: what is in half, what stays in fp32, and that nothing overflows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.families import exported, feeds_of, passed, rungs
from tests.tiny import MODEL
from tests.toy_graphs import chain
from tlcompile.artifacts import Feed, Graph
from tlcompile.errors import TlcompileError
from tlcompile.models import timm
from tlcompile.optimize import Context, half
from tlcompile.optimize._precision import HALF
from tlcompile.parity import run_graph


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    network = timm.build(timm.Options(**{k: v for k, v in MODEL.items() if k != "library"}), 3)
    return exported(network, feeds_of(network), tmp_path_factory.mktemp("graph"))


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    return found | {i.name: i.data_type for i in inferred.initializer}


def test_the_network_computes_in_half_and_preprocessing_and_answer_in_fp32(graph: Graph, tmp_path: Path) -> None:
    made = passed("half", graph, tmp_path / "half")
    model = onnx.load(made.model)
    known = types(model)
    products = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert products
    assert {known[name] for n in products for name in (*n.input, *n.output)} == {TensorProto.FLOAT16}
    first = [n for n in model.graph.node if n.name.startswith("preprocess/")]
    assert TensorProto.FLOAT16 not in {known[name] for n in first for name in (*n.input, *n.output)}
    assert {known[value.name] for value in model.graph.output} == {TensorProto.FLOAT}
    assert rungs(made) == ["export", "optimize/half ()"]
    assert made.model.stat().st_size < 0.7 * graph.model.stat().st_size


def rising() -> list[Feed]:
    return [{"x": np.linspace(1, 10, 8, dtype=np.float32).reshape(2, 4)}]


@pytest.mark.parametrize("scale", [100.0, 4000.0, 1e5, 1e-7])
def test_what_would_overflow_or_vanish_is_computed_in_fp32(tmp_path: Path, scale: float) -> None:
    chain(tmp_path / "m.onnx", scale)
    feeds = rising()
    half.apply(tmp_path / "m.onnx", half.Options(), Context("", lambda: iter(feeds)), tmp_path / "h.onnx")
    model = onnx.load(tmp_path / "h.onnx")
    known = types(model)
    beyond = scale * 10 > HALF.largest / 4 or scale < half.SMALLEST
    assert known["large"] == (TensorProto.FLOAT if beyond else TensorProto.FLOAT16)
    found = run_graph(tmp_path / "h.onnx", feeds)[0]["logits"]
    assert np.abs(found - (feeds[0]["x"] + 1)).max() < 2e-2
    assert sum(n.op_type == "Cast" for n in model.graph.node) == 2


def test_the_lowest_value_of_a_mask_becomes_that_of_half(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.array([np.finfo(np.float32).min, -np.inf, 1e-3], np.float32), "mask")
    halved = numpy_helper.to_array(HALF.tensor(value, "halved"))
    assert halved.tolist() == [-HALF.largest, -np.inf, pytest.approx(1e-3, rel=1e-3)]


def test_a_file_that_is_no_graph_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(TlcompileError, match=r"optimize\.half: this graph can't be turned into fp16"):
        half.apply(tmp_path / "m.onnx", half.Options(), Context("", lambda: iter(())), tmp_path / "h.onnx")
