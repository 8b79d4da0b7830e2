"""Dynamic int8: integer products behind ranges of the moment, in ONNX Runtime only."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests import toy_networks as toy
from tests.families import LIMIT, exported, feeds_of, passed, rungs, text_folder
from tlcompile.artifacts import Graph
from tlcompile.errors import RecipeError, TlcompileError
from tlcompile.models import transformers
from tlcompile.optimize import Context, dynamic
from tlcompile.parity import run_graph
from tlcompile.runtime import golden


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return toy.encoder(tmp_path / "graph", outlier=1.0)


def test_products_with_weights_are_in_integers_and_nothing_is_calibrated(graph: Graph, tmp_path: Path) -> None:
    made = passed("dynamic", graph, tmp_path / "made", "x86")
    model = onnx.load(made.model)
    kinds = [n.op_type for n in model.graph.node]
    assert kinds.count("MatMulInteger") == 4
    assert "MatMul" not in kinds
    assert "QuantizeLinear" not in kinds
    assert rungs(made)[-1] == "optimize/dynamic (x86)"
    weights = [numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights if w.ndim == 2) <= 64, "7 bits: no VNNI"


def test_small_and_large_inputs_are_as_exact_relative_to_their_size(tmp_path: Path) -> None:
    """A range that was fixed beforehand would clip the ones or round away the others."""
    rng = np.random.default_rng(0)
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[n,16] x) => (float[n,8] y) { y = MatMul (x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "product"
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 1, (16, 8)).astype(np.float32), "w"))
    onnx.save(model, tmp_path / "graph.onnx")
    dynamic.apply(tmp_path / "graph.onnx", dynamic.Options(), Context("x86", lambda: iter(())), tmp_path / "m.onnx")
    for scale in (1e-3, 1.0, 1e3):
        feeds = [{"x": (scale * rng.normal(0, 1, (32, 16))).astype(np.float32)}]
        found, expected = (run_graph(tmp_path / name, feeds)[0]["y"] for name in ("m.onnx", "graph.onnx"))
        assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


def test_an_excluded_product_stays_in_fp32(graph: Graph, tmp_path: Path) -> None:
    made = passed("dynamic", graph, tmp_path / "made", "x86", exclude=("MatMul_1",))
    assert [n.name for n in onnx.load(made.model).graph.node if n.op_type == "MatMul"] == ["MatMul_1"]


def test_a_square_weight_that_the_quantizer_turns_over_is_no_fault(graph: Graph, tmp_path: Path) -> None:
    """The pooler of a BERT: the shape of its weight does not tell that it was turned over."""
    model, rng = onnx.load(graph.model), np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, (16, 16)).astype(np.float32), "square"))
    (last,) = (node for node in model.graph.node if node.name == "MatMul_12")
    gemm = onnx.helper.make_node("Gemm", [last.input[0], "square"], ["turned"], name="product", transB=1)
    last.input[0] = "turned"
    model.graph.node.insert(12, gemm)
    onnx.save(model, graph.model)
    feeds = toy.text_feeds()[:2]
    golden.save(graph.folder / "golden.npz", feeds, run_graph(graph.model, feeds))
    made = onnx.load(passed("dynamic", graph, tmp_path / "made", "x86").model)
    assert sum(n.op_type == "MatMulInteger" for n in made.graph.node) == 5


def test_pooler_and_classifier_of_a_bert_are_in_integers_and_answers_are_kept(tmp_path: Path) -> None:
    """torch exports both as Gemm, which ONNX Runtime's quantizer renames before it looks for the nodes to quantize."""
    options = {"name": str(text_folder(tmp_path / "bert", "bert")), "max_length": LIMIT}
    network = transformers.build(transformers.Options.model_validate(options), 3)
    source = exported(network, feeds_of(network), tmp_path / "export")
    gemms = [n.name for n in onnx.load(source.model).graph.node if n.op_type == "Gemm"]
    assert len(gemms) == 2
    feeds, _ = golden.load(source.folder / "golden.npz")
    for number, exclude in enumerate([(), gemms[1:]]):
        made = passed("dynamic", source, tmp_path / str(number), "x86", exclude=tuple(exclude))
        integer = [n.name for n in onnx.load(made.model).graph.node if n.op_type == "MatMulInteger"]
        assert [any(gemm in name for name in integer) for gemm in gemms] == [True, not exclude]
        assert len(integer) == 14 - len(exclude)
        for found, expected in zip(run_graph(made.model, feeds), run_graph(source.model, feeds), strict=True):
            assert np.abs(found["logits"] - expected["logits"]).max() < 0.1 * np.abs(expected["logits"]).max()


def test_only_onnx_runtime_takes_it_and_others_are_told_why() -> None:
    assert dynamic.refused(dynamic.Options(), "onnxruntime") == ""
    for backend in ("openvino", "tensorrt", "tensorrt_rtx"):
        assert "MatMulInteger" in dynamic.refused(dynamic.Options(), backend)
        assert backend in dynamic.refused(dynamic.Options(), backend)


def test_the_log_of_the_caller_is_as_loud_as_before(
    graph: Graph, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        dynamic.apply(graph.model, dynamic.Options(), Context("x86", lambda: iter(())), tmp_path / "m.onnx")
        assert logging.getLogger().level == logging.INFO
    assert not caplog.records


def test_bad_input_is_told_in_a_sentence(graph: Graph, tmp_path: Path) -> None:
    context, target = Context("x86", lambda: iter(())), tmp_path / "m.onnx"
    with pytest.raises(TlcompileError, match=r"optimize\.dynamic: nothing is left to quantize"):
        dynamic.apply(graph.model, dynamic.Options(exclude=("MatMul*",)), context, target)
    with pytest.raises(RecipeError, match=r"optimize\.dynamic\.exclude: .* did you mean 'MatMul_1'"):
        dynamic.apply(graph.model, dynamic.Options(exclude=("MatMul_1x",)), context, target)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(TlcompileError, match=r"optimize\.dynamic: this graph can't be quantized"):
        dynamic.apply(tmp_path / "broken.onnx", dynamic.Options(), context, target)
    assert not target.exists()
