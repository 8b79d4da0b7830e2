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
from tlcompile.compile import _cuda, _nvidia, _nvidia_runner, tensorrt_rtx
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


def test_one_engine_can_serve_several_capabilities(graphs: Graphs, tmp_path: Path) -> None:
    info = build(graphs("fp32"), tmp_path, compute_capability=("sm86", "sm89", "sm120"), one_engine=True)
    assert list(info["engines"]) == ["sm86-sm89-sm120"]
    plans = tensorrt_rtx._files(tmp_path)
    assert list(plans) == ["sm86", "sm89", "sm120"]
    assert set(plans.values()) == {tmp_path / info["engines"]["sm86-sm89-sm120"]["file"]}
    assert len(read_json(tmp_path / "layers-sm86-sm89-sm120.json")) > 0


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


@pytest.mark.parametrize("name", ["sm90", "9.0", "sm_100"])
def test_a_data_centre_gpu_is_sent_to_the_other_backend(name: str) -> None:
    with pytest.raises(ValidationError, match="data-centre GPUs take the backend tensorrt"):
        Options(compute_capability=(name,))


def test_turing_refuses_a_quantized_graph_before_the_build(graphs: Graphs, tmp_path: Path) -> None:
    with pytest.raises(TlcompileError, match=r"sm75 has no int8: .* or drop sm75"):
        build(graphs("tensorrt"), tmp_path, compute_capability=("sm75", "sm86"))
    assert not list(tmp_path.glob("*.trt"))


def test_a_quantized_engine_carries_its_graph_for_a_device_that_must_rebuild_it(graphs: Graphs, tmp_path: Path) -> None:
    for variant, graph, fallback, there in (
        ("int8", "tensorrt", "rebuild", True),
        ("int8", "tensorrt", "portable", False),
        ("fp32", "fp32", "rebuild", False),  # the bundle's model.onnx
    ):
        folder = tmp_path / f"{variant}-{fallback}"
        folder.mkdir()
        options = Options(compute_capability=("sm89",), fallback=fallback)
        backends.build("tensorrt_rtx", options, graphs(graph), variant, folder)
        assert (folder / "graph.onnx").exists() == there
    kept = tmp_path / "int8-rebuild" / "graph.onnx"
    assert kept.read_bytes() == graphs("tensorrt").model.read_bytes()


def test_several_ranges_are_all_in_the_engine(graphs: Graphs, tmp_path: Path) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    plain, several = tmp_path / "plain", tmp_path / "several"
    for folder, profiles in ((plain, []), (several, [{"batch": [32, 64, 64]}, {"image_px": [512, 512, 2048]}])):
        folder.mkdir()
        options = Options.model_validate({"compute_capability": ["sm86"], "profiles": profiles})
        backends.build("tensorrt_rtx", options, graphs("fp32"), "fp32", folder)
    assert trt is not None
    assert (several / "engine-sm86.trt").stat().st_size != (plain / "engine-sm86.trt").stat().st_size
    assert len(read_json(several / "engine.json")["options"]["profiles"]) == 2


def test_an_engine_is_said_to_be_not_reproducible(engines: Callable[[str, str], Path]) -> None:
    assert read_json(engines("tensorrt_rtx", "fp32") / "engine.json")["reproducible"] is False


def test_what_is_wrong_with_a_plan_is_named() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    runtime = trt.Runtime(_nvidia.logger(trt, _nvidia.Log()))
    assert _nvidia_runner.diagnosis(trt, runtime, b"x" * 1000) == ": malformed engine"


def test_ctrl_c_ends_a_build(graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: progress.Bar, n: int = 1, note: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Bar, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(graphs("fp32"), tmp_path, compute_capability=("sm86",))
    assert not list(tmp_path.glob("*.trt"))
