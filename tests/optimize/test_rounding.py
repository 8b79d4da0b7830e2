"""Adaptive rounding: the gradient is right, weights move by a step at most, and layers come nearer to fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests import toy_networks as toy
from tests.families import passed, rungs
from tlcompile import progress
from tlcompile.artifacts import Feed, Graph
from tlcompile.errors import TlcompileError
from tlcompile.optimize import Context, _adaptive, _qdq, _ranges, _rounding, _unfolded, quantize, weights
from tlcompile.optimize._observe import observe, plain_session
from tlcompile.optimize._rounding import Relaxed, Samples
from tlcompile.optimize._walk import Walk
from tlcompile.parity import run_graph

STEPS = 300


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "quiet", True)


# one layer


def layer(seed: int = 0, ends: tuple[float, float] = (-np.inf, np.inf), kind: type = np.float32) -> tuple:
    """(weight, step, samples, others of the same layer), of two groups; a quarter of the inputs is zero."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (2, 12, 5)).astype(kind)
    step = np.broadcast_to(np.abs(weight).max(1, keepdims=True) / 7, weight.shape).astype(kind)
    mixed, bias = rng.normal(0, 1, (12, 12)), rng.normal(0, 0.5, (2, 5)).astype(kind)

    def samples(count: int) -> Samples:
        inputs = np.maximum(rng.normal(0.7, 1, (2, count, 12)) @ mixed, 0).astype(kind)
        return Samples(inputs, (inputs @ weight + bias[:, None]).clip(*ends), bias, ends)

    return weight, step, samples(600), samples(300)


@pytest.mark.parametrize("beta", [None, 20.0, 2.5])
@pytest.mark.parametrize("ends", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0)])
def test_the_gradient_is_that_of_the_loss(beta: float | None, ends: tuple[float, float]) -> None:
    weight, step, samples, _ = layer(1, ends, np.float64)
    weight[0, 0, 0] = 2 * step[0, 0, 0]  # on a step
    samples = replace(samples.some(slice(40)), outputs=samples.outputs[:, :40] + 0.3)
    relaxed, unit = Relaxed(weight, step), _rounding.unit_of(samples, step)
    relaxed.v += np.random.default_rng(2).normal(0, 1, relaxed.v.shape)
    _, found = _rounding.loss(relaxed, samples, unit, beta)
    expected = np.zeros_like(found)
    for place in np.ndindex(*found.shape):
        for sign in (1, -1):
            relaxed.v[place] += sign * 1e-6
            expected[place] += sign * _rounding.loss(relaxed, samples, unit, beta)[0] / 2e-6
            relaxed.v[place] -= sign * 1e-6
    assert np.abs(found).max() > 0.1
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_before_it_learns_the_relaxed_weight_is_the_weight() -> None:
    weight, step, _, _ = layer(kind=np.float64)
    relaxed = Relaxed(weight, step)
    assert np.abs(relaxed.floor + relaxed.up()[0] - weight / step).max() <= _rounding.ON_A_STEP


@pytest.mark.parametrize("ends", [(-np.inf, np.inf), (0.0, 6.0)])
def test_on_other_examples_the_error_is_well_below_that_of_the_nearest_steps(ends: tuple[float, float]) -> None:
    weight, step, samples, others = layer(0, ends)
    codes = _rounding.adapt(weight, step, samples, STEPS, 0)
    nearest = np.rint(weight / step)
    assert (codes != nearest).any()
    assert others.error(codes * step) < 0.85 * others.error(nearest * step)


def test_a_steady_error_of_the_inputs_is_made_up_for() -> None:
    """What the layer is given is off, and what it shall make is what right inputs make."""
    weight, step, samples, others = layer()
    samples, others = (replace(s, inputs=0.9 * s.inputs) for s in (samples, others))
    codes = _rounding.adapt(weight, step, samples, STEPS, 0)
    assert others.error(codes * step) < 0.5 * others.error(weight)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_every_code_is_one_of_the_two_next_to_the_weight_and_in_range(seed: int, zeros: int) -> None:
    weight, step, samples, _ = layer(seed)
    weight[:, :zeros] = 0  # up to a whole layer
    codes = _rounding.adapt(weight, step, samples, 20, seed)
    assert (np.abs(codes - weight / step) < 1).all()
    assert not codes[:, :zeros].any(), "what was pruned away stays away"
    assert np.abs(codes).max() <= 7


def test_inputs_that_are_always_zero_leave_finite_codes() -> None:
    weight, step, samples, _ = layer()
    samples.inputs[:] = 0
    codes = _rounding.adapt(weight, step, samples, 20, 0)
    assert (np.abs(codes - weight / step) < 1).all()


def test_the_same_seed_finds_the_same_codes() -> None:
    weight, step, samples, _ = layer()
    first, second, other = (_rounding.adapt(weight, step, samples, 60, seed) for seed in (0, 0, 1))
    assert (first == second).all()
    assert (first != other).any()


# a graph


CASES = """
<ir_version: 10, opset_import: ["" : 18]>
cases (float[batch,4,9,10] x) => (float[batch,6,?,?] y) {
  a = Conv <group = 2, pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]> (x, w1, b1)
  r = Relu (a)
  y = Conv <group = 6> (r, w2)
}
"""


def unusual(folder: Path) -> tuple[onnx.ModelProto, list[Feed]]:
    """Groups, strides, dilations and uneven pads; the second convolution is depthwise and has no bias."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(CASES)
    for name, shape in {"w1": (6, 2, 3, 2), "b1": (6,), "w2": (6, 1, 2, 2)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 1, shape).astype(np.float32), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    onnx.save(model, folder / "unusual.onnx")
    feeds = [{"x": rng.normal(0, 1, (2, 4, 9, 10)).astype(np.float32)} for _ in range(6)]
    return _qdq.prepared(folder / "unusual.onnx", folder / "prepared.onnx"), feeds


def pair(
    graph: Graph, feeds: list[Feed], dialect: str = "x86-vnni", per_channel: bool = True
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(fp32, int8 with weights rounded to the nearest step)."""
    model = _qdq.prepared(graph.model, graph.folder / "prepared.onnx")
    return model, int8(model, feeds, dialect, per_channel)


def int8(
    model: onnx.ModelProto, feeds: list[Feed], dialect: str = "x86-vnni", per_channel: bool = True
) -> onnx.ModelProto:
    names = _qdq.activations(model.graph, ())
    ranges = _ranges.find(observe(model, names, feeds), "minmax", 100, _qdq.is_symmetric(dialect))
    return _qdq.write(model, ranges, (), dialect, per_channel)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def test_rows_times_the_weight_are_what_the_layer_makes(tmp_path: Path) -> None:
    """Of every kind of layer, at every position that was drawn."""
    cases = [unusual(tmp_path)]
    for name, feeds in (("mobile", toy.image_feeds()), ("encoder", toy.text_feeds())):
        graph = getattr(toy, name)(tmp_path / name)
        cases.append((_qdq.prepared(graph.model, tmp_path / "prepared.onnx"), feeds))
    kinds = set()
    for model, feeds in cases:
        for one in _unfolded.layers(model, int8(model, feeds)):
            one = replace(one, source=one.node.input[0], scale=np.float32(1), zero=np.float32(0))
            (values,) = observe(model, [one.source, one.output], feeds[:1])
            wanted = one.wanted(values[one.output], 50, np.random.default_rng(0))
            samples = one.samples(values[one.source], wanted)
            assert samples.error(one.grouped(one.weight)) < 1e-10
            assert (one.as_stored(one.grouped(one.weight)) == one.weight).all()
            kinds.add((one.node.op_type, one.groups > 1, bool(one.bias.any()), one.ends))
    assert {kind for kind, *_ in kinds} == {"Conv", "Gemm", "MatMul"}
    assert {ends for *_, ends in kinds} == {(-np.inf, np.inf), (0, np.inf), (0, 6)}


@pytest.mark.parametrize("name", ["mobile", "encoder"])
def test_a_walk_gives_every_tensor_as_one_run_does_and_forgets_what_nobody_reads(name: str, tmp_path: Path) -> None:
    feeds = toy.image_feeds() if name == "mobile" else toy.text_feeds()
    _, quantized = pair(getattr(toy, name)(tmp_path), feeds)
    names = [node.output[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(quantized)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    session, walk = plain_session(exposed), Walk(quantized, feeds)
    for one in names:
        for found, feed in zip(walk.to(one), feeds, strict=True):
            assert (found == session.run([one], feed)[0]).all()
        assert len(walk.values[0]) <= 3
    assert not set(feeds[0]) & set(walk.values[0])


@pytest.mark.parametrize("dialect", ["x86-vnni", "x86", "arm", "tensorrt"])
def test_with_the_same_scales_layers_of_a_real_graph_come_nearer_to_fp32(dialect: str, tmp_path: Path) -> None:
    """With one scale a tensor, small channels have few steps: more is lost by weights than by activations."""
    feeds = toy.image_feeds()
    model, nearest = pair(toy.mobile(tmp_path, uneven=8), feeds, dialect, per_channel=False)
    codes = _adaptive.adapted(model, nearest, feeds, STEPS)
    made = onnx.ModelProto()
    made.CopyFrom(nearest)
    _adaptive.put_codes(made, codes)
    before, after = constants(nearest), constants(made)
    changed = {name for name, value in before.items() if (value != after[name]).any()}
    assert changed == set(codes) != set()
    for name in changed:
        assert before[name].dtype == after[name].dtype == np.int8
        assert np.abs(before[name].astype(int) - after[name]).max() == 1
        assert np.abs(after[name]).max() <= (64 if dialect == "x86" else 127)
    others = [{"pixels": np.random.default_rng(9).normal(0.5, 1, (64, 3, 8, 8)).astype(np.float32)}]
    errors = [
        [((a["c3"] - b["c3"]) ** 2).mean() for a, b in zip(observe(model, ["c3"], others), found, strict=True)]
        for found in (behind_last_convolution(m, others) for m in (nearest, made))
    ]
    assert np.mean(errors[1]) < 0.95 * np.mean(errors[0])


def behind_last_convolution(model: onnx.ModelProto, feeds: list[Feed]) -> list[Feed]:
    (node,) = (n for n in model.graph.node if n.op_type == "Conv" and n.output[0].startswith("c3"))
    return [{"c3": values[node.output[0]]} for values in observe(model, [node.output[0]], feeds)]


def test_what_is_worse_on_examples_that_took_no_part_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same search with up and down swapped finds nothing that a layer keeps."""
    feeds = toy.image_feeds()
    model, nearest = pair(toy.mobile(tmp_path, uneven=4), feeds)
    right = Relaxed.codes
    monkeypatch.setattr(Relaxed, "codes", lambda self: 2 * self.floor + ~self.fixed - right(self))
    assert _adaptive.adapted(model, nearest, feeds, 50) == {}


def test_a_layer_of_zeros_and_a_shared_weight_stay_as_they_are(tmp_path: Path) -> None:
    feeds = toy.text_feeds()
    graph = toy.encoder(tmp_path, outlier=1.0)
    model = onnx.load(graph.model)
    (product,) = (n for n in model.graph.node if n.output[0] == "m2")
    product.input[1] = "w1"
    (zeros,) = (i for i in model.graph.initializer if i.name == "w3")
    zeros.CopyFrom(numpy_helper.from_array(np.zeros((16, 16), np.float32), "w3"))
    onnx.save(model, graph.model)
    prepared, nearest = pair(graph, feeds)
    assert set(_adaptive.adapted(prepared, nearest, feeds, 50)) <= {"w4_quantized"}


# the passes


def test_the_pass_rounds_adaptively_and_then_corrects_what_is_left(tmp_path: Path) -> None:
    feeds, distances = toy.image_feeds(), {}
    graph = toy.mobile(tmp_path / "graph", uneven=4)
    for rounding in ("nearest", "adaptive"):
        for correction in (False, True):
            options = quantize.Options(rounding=rounding, bias_correction=correction)
            quantize.apply(graph.model, options, Context("x86", lambda: iter(feeds)), tmp_path / "m.onnx")
            pairs = zip(run_graph(tmp_path / "m.onnx", feeds), run_graph(graph.model, feeds), strict=True)
            distances[rounding, correction] = np.mean([((a["logits"] - b["logits"]) ** 2).mean() for a, b in pairs])
    assert distances["adaptive", False] < 0.8 * distances["nearest", False]
    assert distances["adaptive", True] < 0.8 * distances["nearest", False]


@pytest.mark.parametrize("name", ["mobile", "encoder"])
@pytest.mark.parametrize("dialect", ["x86-vnni", "x86", "arm", "tensorrt"])
def test_the_driver_takes_the_graph_in_every_dialect(name: str, dialect: str, tmp_path: Path) -> None:
    more = {"equalize": True} if name == "mobile" else {"smooth": 0.5}
    made = passed(
        "quantize", getattr(toy, name)(tmp_path / "graph"), tmp_path / "int8", dialect, rounding="adaptive", **more
    )
    assert rungs(made)[-1] == f"optimize/quantize ({dialect})"


def test_a_search_leaves_layers_in_fp32_whose_codes_were_found_and_another_rounding_is_another_search(
    tmp_path: Path,
) -> None:
    feeds, graph = toy.image_feeds(), toy.mobile(tmp_path / "graph")
    for rounding in ("nearest", "adaptive"):
        options = quantize.Options(rounding=rounding, search=True)
        context = Context("x86", lambda: iter(feeds), work=tmp_path, margin=1e-9)
        quantize.apply(graph.model, options, context, tmp_path / "m.onnx")
        (tmp_path / "m.onnx").unlink()
    assert len(list(tmp_path.glob("search-*.jsonl"))) == 2


@pytest.mark.parametrize("block_size", [16, 32])
def test_int4_weights_move_by_a_step_at_most_and_answers_come_nearer(block_size: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[n,l,32] x) => (float[n,l,8] y) { a = MatMul (x, w1)  b = Relu (a)  y = MatMul (b, w2) }
        """
    )
    for name, shape in {"w1": (32, 64), "w2": (64, 8)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 1, shape).astype(np.float32), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    onnx.save(model, tmp_path / "graph.onnx")
    mixed = rng.normal(0, 1, (32, 32))
    made = [{"x": (rng.normal(0, 1, (1, 9, 32)) @ mixed).astype(np.float32)} for _ in range(80)]
    feeds, others = made[:60], made[60:]
    errors, codes = [], []
    for rounding in ("nearest", "adaptive"):
        options = weights.Options(block_size=block_size, rounding=rounding)
        weights.apply(tmp_path / "graph.onnx", options, Context("x86", lambda: iter(feeds)), tmp_path / "m.onnx")
        pairs = zip(run_graph(tmp_path / "m.onnx", others), run_graph(tmp_path / "graph.onnx", others), strict=True)
        errors.append(np.mean([((a["y"] - b["y"]) ** 2).mean() for a, b in pairs]))
        codes.append(constants(onnx.load(tmp_path / "m.onnx")))
    assert errors[1] < 0.6 * errors[0]
    for name, value in codes[0].items():
        moved = np.abs(value.astype(np.float32) - codes[1][name].astype(np.float32)).max()
        assert moved == (1 if name.endswith("codes") else 0)


def test_rounding_keys_that_would_not_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match="rounding_steps is read with rounding = 'adaptive'"):
        quantize.Options(rounding_steps=10)
    with pytest.raises(ValueError, match="rounding_steps is read with rounding = 'adaptive'"):
        weights.Options(rounding_steps=10)
    with pytest.raises(ValueError, match="rounding is read with scheme = 'int4', which is 'binary'"):
        weights.Options(scheme="binary", rounding="adaptive")


def test_nan_in_calibration_is_told_before_anything_is_learnt(tmp_path: Path) -> None:
    graph, feeds = toy.mobile(tmp_path), toy.image_feeds()
    feeds[2]["pixels"][0, 0, 0, 0] = np.nan
    with pytest.raises(TlcompileError, match="is NaN on calibration example 2"):
        quantize.apply(
            graph.model, quantize.Options(rounding="adaptive"), Context("x86", lambda: iter(feeds)), tmp_path / "m.onnx"
        )
    with pytest.raises(TlcompileError, match="there is no example"):
        _adaptive.adapted(*pair(graph, toy.image_feeds()), [], 10)
