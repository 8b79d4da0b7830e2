from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
