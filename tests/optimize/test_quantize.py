"""Each switch of int8 does what it is for, on small networks that are hard to quantize; bad input gets a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests import toy_networks as toy
from tests.families import passed, rungs
from tlcompile.artifacts import Feed, Graph
from tlcompile.errors import RecipeError, TlcompileError
from tlcompile.optimize import Context, _bias, _equalize, _layers, _qdq, _ranges, _smooth, quantize
from tlcompile.optimize._observe import observe
from tlcompile.parity import run_graph


@pytest.fixture
def mobile(tmp_path: Path) -> Graph:
    return toy.mobile(tmp_path / "graph")


@pytest.fixture
def encoder(tmp_path: Path) -> Graph:
    return toy.encoder(tmp_path / "graph")


def prepared(graph: Graph) -> onnx.ModelProto:
    return _qdq.prepared(graph.model, graph.folder / "prepared.onnx")


def rounded(model: onnx.ModelProto, feeds: list[Feed], rule: _ranges.Rule = "minmax") -> onnx.ModelProto:
    model = onnx.shape_inference.infer_shapes(model)
    names = _qdq.activations(model.graph, ())
    return _qdq.write(model, _ranges.find(observe(model, names, feeds), rule, 99.9, False), (), "x86-vnni")


def layer_errors(model: onnx.ModelProto, feeds: list[Feed]) -> dict[str, _layers.Error]:
    return _layers.errors(model, rounded(model, feeds), feeds)


def answers(model: onnx.ModelProto, feeds: list[Feed], folder: Path) -> np.ndarray:
    onnx.save(model, folder / "answers.onnx")
    return np.concatenate([f["probabilities"] for f in run_graph(folder / "answers.onnx", feeds)])


def distance(graph: Graph, feeds: list[Feed], folder: Path, **options: object) -> float:
    """Mean absolute difference of the logits of int8 and fp32."""
    context = Context("x86-vnni", lambda: iter(feeds))
    quantize.apply(graph.model, quantize.Options(**options), context, folder / "int8.onnx")
    pairs = zip(run_graph(folder / "int8.onnx", feeds), run_graph(graph.model, feeds), strict=True)
    return float(np.mean([np.abs(a["logits"] - b["logits"]).mean() for a, b in pairs]))


def test_equalizing_keeps_the_answers_evens_the_channels_and_lowers_the_error(mobile: Graph, tmp_path: Path) -> None:
    feeds, before = toy.image_feeds(), prepared(mobile)
    after = onnx.ModelProto()
    after.CopyFrom(before)
    assert _equalize.equalize(after, feeds) == 2
    assert np.abs(answers(before, feeds, tmp_path) - answers(after, feeds, tmp_path)).max() < 1e-5
    spread = []
    for model in (before, after):
        constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        first = next(n for n in model.graph.node if n.op_type == "Conv")
        sizes = np.abs(constants[first.input[1]]).reshape(16, -1).max(1)
        spread.append(sizes.max() / sizes.min())
    assert spread[1] < spread[0] / 4
    was, now = (layer_errors(model, feeds) for model in (before, after))
    assert set(was) == set(now)
    assert np.mean([e.relative for e in now.values()]) < 0.5 * np.mean([e.relative for e in was.values()])


def test_a_channel_that_reaches_the_end_of_its_clip_is_not_scaled(mobile: Graph, tmp_path: Path) -> None:
    feeds = [{"pixels": 8 * feed["pixels"]} for feed in toy.image_feeds()]
    before, after = prepared(mobile), prepared(mobile)
    peaks = np.max([v["c1"].max((0, 2, 3)) for v in observe(before, ["c1"], feeds)], axis=0)
    assert (peaks > 6).any()
    assert (peaks < 1).any()
    _equalize.equalize(after, feeds)
    assert np.abs(answers(before, feeds, tmp_path) - answers(after, feeds, tmp_path)).max() < 1e-5
    constants = {i.name: numpy_helper.to_array(i) for m in (before, after) for i in m.graph.initializer}
    changed = np.abs(constants["Conv_1/rewritten_1"] - constants["w1"]).reshape(16, -1).max(1) > 1e-6
    assert not changed[peaks > 6].any()
    assert changed[peaks < 1].any()


def test_smoothing_keeps_the_answers_and_lowers_the_error(encoder: Graph, tmp_path: Path) -> None:
    feeds, before, after = toy.text_feeds(), prepared(encoder), prepared(encoder)
    assert _smooth.smooth(after, 0.5, (), feeds) == 4
    assert np.abs(answers(before, feeds, tmp_path) - answers(after, feeds, tmp_path)).max() < 1e-5
    was, now = (layer_errors(model, feeds) for model in (before, after))
    assert len(was) == 4
    assert np.mean([e.relative for e in now.values()]) < 0.5 * np.mean([e.relative for e in was.values()])
    added = [n for n in after.graph.node if n.op_type == "Mul"]
    assert "n1" not in {n.input[0] for n in added}, "a norm that only the product reads takes the scale itself"
    assert "n2" in {n.input[0] for n in added}, "a norm that a sum reads too does not"


@pytest.mark.parametrize("name", ["mobile", "encoder"])
def test_bias_correction_takes_the_mean_error_of_each_channel_away(name: str, tmp_path: Path) -> None:
    model = prepared(getattr(toy, name)(tmp_path))
    feeds = toy.image_feeds() if name == "mobile" else toy.text_feeds()
    names = _qdq.activations(model.graph, ())
    ranges = _ranges.find(observe(model, names, feeds), "minmax", 100, False)
    errors = _layers.errors(model, _qdq.write(model, ranges, (), "x86"), feeds)
    tensors = [node.output[0] for node in model.graph.node]
    (exact,) = observe(model, tensors, feeds[:1])
    corrected = onnx.ModelProto()
    corrected.CopyFrom(model)
    changed = _bias.correct(corrected, errors)
    assert changed == (4 if name == "mobile" else 3)
    (moved,) = observe(corrected, tensors, feeds[:1])
    first = next(n for n in model.graph.node if n.name in errors)
    place = _bias.bias_of(_layers.Wiring(model.graph), first)
    assert place is not None
    shift = moved[place[0].output[0]] - exact[place[0].output[0]]
    channels = shift if shift.ndim == 3 else np.moveaxis(shift, 1, -1)
    assert np.abs(channels + errors[first.name].mean).max() < 1e-5


@pytest.mark.parametrize("options", [{"bias_correction": True}, {"equalize": True}])
def test_of_a_mobile_network_int8_comes_nearer_to_fp32(mobile: Graph, tmp_path: Path, options: dict) -> None:
    feeds = toy.image_feeds()
    assert distance(mobile, feeds, tmp_path, **options) < distance(mobile, feeds, tmp_path)


def test_of_an_encoder_with_outliers_smoothed_int8_comes_nearer_to_fp32(encoder: Graph, tmp_path: Path) -> None:
    feeds = toy.text_feeds()
    assert distance(encoder, feeds, tmp_path, smooth=0.5) < 0.6 * distance(encoder, feeds, tmp_path)


@pytest.mark.parametrize("dialect", ["x86-vnni", "x86", "arm", "tensorrt"])
@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy", "mse"])
def test_every_rule_makes_a_graph_in_every_dialect(
    mobile: Graph, tmp_path: Path, calibration: str, dialect: str
) -> None:
    made = passed("quantize", mobile, tmp_path / "int8", dialect, calibration=calibration)
    assert rungs(made)[-1] == f"optimize/quantize ({dialect})"
    assert sum(n.op_type == "QuantizeLinear" for n in onnx.load(made.model).graph.node) >= 4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobile", {"equalize": True, "bias_correction": True, "calibration": "mse"}),
        ("encoder", {"smooth": 0.5, "bias_correction": True}),
    ],
)
def test_the_driver_takes_what_the_rewrites_made(name: str, options: dict, tmp_path: Path) -> None:
    made = passed("quantize", getattr(toy, name)(tmp_path / "graph"), tmp_path / "int8", "x86", **options)
    assert rungs(made)[-1] == "optimize/quantize (x86)"


def test_one_scale_a_tensor_where_channels_are_not_asked_for(mobile: Graph, tmp_path: Path) -> None:
    feeds = toy.image_feeds()
    for per_channel in (True, False):
        context = Context("x86-vnni", lambda: iter(feeds))
        quantize.apply(mobile.model, quantize.Options(per_channel=per_channel), context, tmp_path / "int8.onnx")
        graph = onnx.load(tmp_path / "int8.onnx").graph
        scales = {i.name: i.dims for i in graph.initializer if i.name.endswith("_scale") and i.name.startswith("w")}
        assert any(dims and dims[0] > 1 for dims in scales.values()) == per_channel


def refuse(graph: Graph, feeds: list[Feed], tmp_path: Path, **options: object) -> str:
    with pytest.raises(TlcompileError) as caught:
        quantize.apply(
            graph.model, quantize.Options(**options), Context("x86", lambda: iter(feeds)), tmp_path / "m.onnx"
        )
    assert not (tmp_path / "m.onnx").exists()
    return str(caught.value)


def test_nan_and_infinity_in_calibration_are_told_with_tensor_and_example(mobile: Graph, tmp_path: Path) -> None:
    feeds = toy.image_feeds()
    feeds[2]["pixels"][0, 0, 0, 0] = np.nan
    assert "is NaN on calibration example 2: no range can be found" in refuse(mobile, feeds, tmp_path)
    feeds[2]["pixels"][0, 0, 0, 0] = np.inf
    assert "on calibration example 2" in refuse(mobile, feeds, tmp_path)


def test_too_few_calibration_examples_are_told(mobile: Graph, tmp_path: Path) -> None:
    feeds = [{"pixels": toy.image_feeds()[0]["pixels"][:1]}]
    assert "data.calibration: 1 examples are too few to find ranges; at least 2" in refuse(mobile, feeds, tmp_path)
    assert "there is no example" in refuse(mobile, [], tmp_path)


def test_a_graph_with_nothing_to_quantize_is_told(encoder: Graph, tmp_path: Path) -> None:
    message = refuse(encoder, toy.text_feeds(), tmp_path, exclude=("MatMul_*",))
    assert "nothing is left to quantize: no Conv, MatMul, Gemm" in message


def test_a_rewrite_that_finds_nothing_to_rewrite_is_a_mistake_of_the_recipe(encoder: Graph, tmp_path: Path) -> None:
    assert "no two convolutions in a row" in refuse(encoder, toy.text_feeds(), tmp_path, equalize=True)
    message = refuse(encoder, toy.text_feeds(), tmp_path, smooth=0.5, exclude=("MatMul_*",))
    assert "no product with a weight to smooth" in message


def test_an_unknown_node_to_exclude_is_told_with_the_nearest(encoder: Graph, tmp_path: Path) -> None:
    context = Context("x86", lambda: iter(toy.text_feeds()))
    with pytest.raises(RecipeError, match="did you mean 'MatMul_1'"):
        quantize.apply(encoder.model, quantize.Options(exclude=("MatMul_1x",)), context, tmp_path / "m.onnx")


@pytest.mark.parametrize("options", [{"percentile": 99.0}, {"search_budget_s": 5.0}])
def test_a_key_that_would_not_be_read_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="is read with"):
        quantize.Options(**options)


def test_tensorrt_builds_int8_of_a_network_that_adds_a_constant(mobile: Graph, tmp_path: Path) -> None:
    """As GoogLeNet does before its first layer: there the constant stays in fp32, elsewhere it may be quantized."""
    pytest.importorskip("tensorrt_rtx")
    from tlcompile import compile as backends
    from tlcompile.compile import tensorrt_rtx

    model = onnx.load(mobile.model)
    at, first = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Conv")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1).reshape(()), "shift"))
    model.graph.node.insert(at, onnx.helper.make_node("Add", [first.input[0], "shift"], ["shifted"], name="shifted"))
    first.input[0] = "shifted"
    onnx.save(model, mobile.model)
    for dialect, stays in (("tensorrt", True), ("x86", False)):
        made = passed("quantize", mobile, tmp_path / dialect, dialect, min_agreement=0.0)
        node = next(n for n in onnx.load(made.model).graph.node if n.name == "shifted")
        assert ("shift" in node.input) == stays
    (tmp_path / "engine").mkdir()
    options = tensorrt_rtx.Options(compute_capability=("sm86",))
    backends.build("tensorrt_rtx", options, Graph(tmp_path / "tensorrt", ""), "int8", tmp_path / "engine")
