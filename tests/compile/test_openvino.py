from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import onnx
import pytest
import toy_graphs
from pydantic import ValidationError

from tlcompile import compile as backends
from tlcompile.artifacts import Graph, read_json
from tlcompile.compile.openvino import Options
from tlcompile.errors import BackendMissing

Graphs = Callable[[str], Graph]


def test_a_device_that_is_not_here_is_told(graphs: Graphs, tmp_path: Path) -> None:
    options = Options(device="NPU")
    why = backends.runs_here("openvino", options)
    if not why:
        pytest.skip("this machine has an NPU")
    assert "OpenVINO sees no NPU here, only 'CPU'" in why
    backends.build("openvino", options, graphs("fp32"), "fp32", tmp_path)
    assert read_json(tmp_path / "engine.json")["why_not"] == why
    with pytest.raises(BackendMissing, match="NPU"):
        backends.open_engine(tmp_path)


def test_outputs_keep_their_names_where_tensors_are_merged(graphs: Graphs, tmp_path: Path) -> None:
    """Of several names of one tensor the first was taken, which was that of an inner node."""
    graph = graphs("fp32")
    model = onnx.load(graph.model)
    (answer,) = (node for node in model.graph.node if "probabilities" in node.output)
    answer.output[0] = "ensemble/ReduceSum_7"
    model.graph.node.append(onnx.helper.make_node("Identity", ["ensemble/ReduceSum_7"], ["probabilities"]))
    shutil.copytree(graph.folder, tmp_path / "graph")
    onnx.save(model, tmp_path / "graph" / "model.onnx")
    backends.build("openvino", Options(), Graph(tmp_path / "graph", ""), "fp32", tmp_path)
    with closing(backends.open_engine(tmp_path)) as runner:
        assert set(runner.run(toy_graphs.images(1))) == {"logits", "probabilities"}


def test_quantized_layers_run_quantized(engines: Callable[[str, str], Path]) -> None:
    layers = {v: read_json(engines("openvino", v) / "engine.json")["layers"] for v in ("fp32", "int8")}
    assert set(layers["fp32"]) == {"f32"}
    assert layers["int8"].get("u8", 0) + layers["int8"].get("i8", 0) == 2  # the convolution and the Gemm


def test_half_precision_weights_are_half_the_size(graphs: Graphs, tmp_path: Path) -> None:
    sizes = {}
    for weights in ("f32", "f16"):
        folder = tmp_path / weights
        folder.mkdir()
        backends.build("openvino", Options(weights=weights), graphs("text"), "fp32", folder)
        sizes[weights] = (folder / "model.bin").stat().st_size
    assert sizes["f16"] < 0.6 * sizes["f32"]


def test_nothing_is_reported_to_anyone(engines: Callable[[str, str], Path]) -> None:
    code = (
        "import sys, threading; from pathlib import Path; from tlcompile import compile as backends;"
        "backends.open_engine(Path(sys.argv[1])); names = [t.name for t in threading.enumerate()];"
        "print(names, sys.modules['openvino_telemetry'])"
    )
    command = [sys.executable, "-c", code, str(engines("openvino", "fp32"))]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "['MainThread'] None"


def test_two_builds_are_the_same_bytes(graphs: Graphs, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        backends.build("openvino", Options(), graphs("fp32"), "fp32", tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_other_devices_than_a_cpu_take_full_range_weights() -> None:
    assert backends.dialect("openvino", Options(device="GPU", isa="avx2")) == "x86-vnni"
    assert backends.dialect("openvino", Options(device="CPU", isa="avx2")) == "x86"


@pytest.mark.parametrize(
    ("name", "near"), [("gpu", "GPU"), ("CUP", "CPU"), ("VPU", "NPU"), ("GPU.x", "GPU"), ("CPU.1", "CPU")]
)
def test_an_unknown_device_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is no device: .*did you mean '{near}'"):
        Options(device=name)


def test_a_second_gpu_is_a_device_and_told_where_it_is_not_here() -> None:
    why = backends.runs_here("openvino", Options(device="GPU.1"))
    assert why == "" or "OpenVINO sees no GPU.1 here" in why


def test_threads_of_a_device_that_has_none_are_refused() -> None:
    with pytest.raises(ValidationError, match="threads are those of a CPU"):
        Options(device="NPU", threads=2)


def settled(graph: Graph, folder: Path, options: Options) -> dict[str, str]:
    folder.mkdir()
    backends.build("openvino", options, graph, "fp32", folder)
    found: dict[str, str] = read_json(folder / "engine.json")["settled"]
    return found


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a device gives no more threads than it has")
def test_what_the_device_settled_on_is_what_was_asked(graphs: Graphs, tmp_path: Path) -> None:
    one = settled(graphs("fp32"), tmp_path / "one", Options(threads=1))
    assert (one["performance_hint"], one["num_streams"], one["inference_num_threads"]) == ("LATENCY", "1", "1")
    assert (one["inference_precision_hint"], one["execution_devices"]) == ("float32", "CPU")
    two = settled(graphs("fp32"), tmp_path / "two", Options(hint="throughput", threads=2))
    assert (two["performance_hint"], two["num_streams"], two["inference_num_threads"]) == ("THROUGHPUT", "2", "2")
    few = settled(graphs("fp32"), tmp_path / "few", Options(hint="throughput", threads=2, streams=1))
    assert (few["performance_hint"], few["num_streams"]) == ("THROUGHPUT", "1")


def test_the_cache_is_filled_once_and_answers_alike(graphs: Graphs, tmp_path: Path) -> None:
    cache = tmp_path / "kept"
    settled(graphs("fp32"), tmp_path / "engine", Options(cache=str(cache)))
    blobs = {file.name: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert blobs
    answers = []
    for _ in range(2):
        with closing(backends.open_engine(tmp_path / "engine")) as runner:
            answers.append(runner.run(toy_graphs.images(2))["logits"])
    assert {file.name: file.stat().st_mtime_ns for file in cache.iterdir()} == blobs
    assert (answers[0] == answers[1]).all()


def test_a_damaged_cache_is_no_error(graphs: Graphs, tmp_path: Path) -> None:
    cache = tmp_path / "kept"
    settled(graphs("fp32"), tmp_path / "engine", Options(cache=str(cache)))
    for blob in cache.iterdir():
        blob.write_bytes(blob.read_bytes()[:100])
    with closing(backends.open_engine(tmp_path / "engine")) as runner:
        assert runner.run(toy_graphs.images(1))["logits"].shape == (1, 4)
