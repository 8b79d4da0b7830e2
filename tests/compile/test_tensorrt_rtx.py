"""Ahead of time, with no GPU. What a GPU does with these engines is not tested here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import toy_graphs
from pydantic import ValidationError

from tlcompile import compile as backends
from tlcompile import progress
from tlcompile.artifacts import Graph, read_json, write_json
from tlcompile.compile import _cuda, _nvidia
from tlcompile.compile.tensorrt_rtx import Options
from tlcompile.errors import BackendMissing, TlcompileError

pytest.importorskip("tensorrt_rtx")
Graphs = Callable[[str], Graph]


def build(graph: Graph, folder: Path, **options: Any) -> dict[str, Any]:
    backends.build("tensorrt_rtx", Options(**options), graph, "", folder)
    info: dict[str, Any] = read_json(folder / "engine.json")
    return info


def with_transposed_bytes(graph: Graph, folder: Path) -> Graph:
    """The toy graph with its Cast and Transpose the other way round: TensorRT has no Transpose of uint8."""
    model = onnx.load(graph.model)
    cast = next(n for n in model.graph.node if list(n.input) == ["image"] and n.op_type == "Cast")
    transpose = next(n for n in model.graph.node if list(n.input) == list(cast.output))
    cast.op_type, transpose.op_type = "Transpose", "Cast"
    cast_attributes, transpose_attributes = list(cast.attribute), list(transpose.attribute)
    for node, attributes in ((cast, transpose_attributes), (transpose, cast_attributes)):
        del node.attribute[:]
        node.attribute.extend(attributes)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    write_json(folder / "signature.json", toy_graphs.IMAGE.to_json())
    return Graph(folder, "")


def test_one_engine_and_layer_report_is_built_for_each_capability(graphs: Graphs, tmp_path: Path) -> None:
    info = build(graphs("fp32"), tmp_path, compute_capability=("sm86", "sm120"))
    assert list(info["engines"]) == ["sm86", "sm120"]
    for capability, engine in info["engines"].items():
        assert (tmp_path / f"engine-{capability}.trt").stat().st_size == engine["bytes"]
        layers = read_json(tmp_path / f"layers-{capability}.json")
        assert len(layers) == engine["layers"] > 0
        assert {"correlation", "gemm"} & {layer["kind"] for layer in layers}
    assert info["engines"]["sm86"]["bytes"] != info["engines"]["sm120"]["bytes"]  # code of their own


def test_a_quantized_graph_gets_int8_layers(graphs: Graphs, tmp_path: Path) -> None:
    info = build(graphs("tensorrt"), tmp_path, compute_capability=("sm89",))
    assert info["engines"]["sm89"]["int8_layers"] == 2  # the convolution and the Gemm


@pytest.mark.parametrize(
    ("name", "near"), [("sm90", "sm89"), ("sm100", "sm89"), ("8.6", "sm86"), ("sm70", "sm75"), ("curent", "current")]
)
def test_an_unknown_capability_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Options(compute_capability=("sm86", name))
    assert f"'{name}'; did you mean '{near}'?" in str(caught.value)


def test_turing_refuses_an_fp32_graph_before_the_build(graphs: Graphs, tmp_path: Path) -> None:
    with pytest.raises(TlcompileError, match=r"sm75 has no fp32 matrix products and 'MatMul_\d+'.*fp16"):
        build(graphs("fp32"), tmp_path, compute_capability=("sm86", "sm75"))
    assert not list(tmp_path.glob("*.trt"))


def test_the_gpu_of_this_machine_needs_one(graphs: Graphs, tmp_path: Path) -> None:
    if not _cuda.why_no_gpu():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendMissing, match=r"'current': no NVIDIA GPU here.*name the capabilities"):
        build(graphs("fp32"), tmp_path, compute_capability=("current",))


def test_a_node_that_the_parser_refuses_is_named(graphs: Graphs, tmp_path: Path) -> None:
    graph = with_transposed_bytes(graphs("fp32"), tmp_path / "graph")
    with pytest.raises(TlcompileError) as caught:
        build(graph, tmp_path, compute_capability=("sm86",))
    message = str(caught.value)
    assert "(Transpose) can't be compiled: " in message
    assert "first input has type UInt8 but must have type" in message
    assert "\n" not in message
    assert "nodeBase.cpp" not in message


def test_ranges_out_of_order_are_all_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate({"batch": [4, 1, 2], "image_px": [0, 1, 2], "tokens": ["1", 2, 3]})
    assert [error["loc"][0] for error in caught.value.errors()] == ["batch", "image_px", "tokens"]
    assert "expected 1 <= minimum <= best <= maximum, found [4, 1, 2]" in str(caught.value)


def test_shapes_come_from_the_ranges_and_the_signature() -> None:
    options = Options(batch=(1, 2, 4), image_px=(8, 16, 32))
    assert _nvidia.shapes(options, toy_graphs.IMAGE) == {"image": ((1, 8, 8, 3), (2, 16, 16, 3), (4, 32, 32, 3))}
    text = ((1, 1), (2, 64), (4, 64))  # the model takes 64 tokens
    assert _nvidia.shapes(options, toy_graphs.TEXT) == {"input_ids": text, "attention_mask": text}


def test_ctrl_c_ends_a_build(graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: progress.Bar, n: int = 1, note: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Bar, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(graphs("fp32"), tmp_path, compute_capability=("sm86",))
    assert not list(tmp_path.glob("*.trt"))
