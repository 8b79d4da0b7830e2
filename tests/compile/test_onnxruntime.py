from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import toy_graphs
from pydantic import ValidationError

from tlcompile import compile as backends
from tlcompile.artifacts import Graph, read_json, write_json
from tlcompile.compile import _cpu, _providers
from tlcompile.compile.onnxruntime import Options
from tlcompile.compile.onnxruntime import _session as engine_of
from tlcompile.errors import BackendMissing, TlcompileError

Graphs = Callable[[str], Graph]


def test_short_names_of_providers_become_full_ones() -> None:
    assert Options(providers=("cuda", "cpu")).providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    again = Options.model_validate(Options(providers=("cuda", "cpu")).model_dump(mode="json"))
    assert again == Options(providers=("cuda", "cpu"))


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        (("cdua", "cpu"), "'cdua' is no provider; did you mean 'cuda'?"),
        (("TensorRTExecutionProvider",), "did you mean 'TensorrtExecutionProvider'?"),
        (("cpu", "cuda"), "cpu takes every node, so it must be the last provider"),
        (("cpu", "CPUExecutionProvider"), "named twice"),
        (("tensorrt_rtx",), "did you mean 'nv_tensorrt_rtx'?"),
        (("dml", "cpu"), "did you mean 'directml'?"),
        ((), "at least 1 item"),
    ],
)
def test_wrong_providers_are_refused_by_the_recipe(providers: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Options(providers=providers)
    assert message in str(caught.value)


@pytest.mark.parametrize("provider", sorted(set(_providers.PROVIDERS) - {"cpu"}))
def test_a_provider_that_the_build_lacks_is_told_and_never_replaced(
    provider: str, graphs: Graphs, tmp_path: Path
) -> None:
    options = Options(providers=(provider, "cpu"))
    full, install = _providers.PROVIDERS[provider].full, _providers.PROVIDERS[provider].install
    if not _providers.unavailable([full]):
        pytest.skip(f"this build of ONNX Runtime has {provider}")
    why = backends.runs_here("onnxruntime", options)
    assert f"the installed build has no {full}" in why
    assert install in why
    backends.build("onnxruntime", options, graphs("fp32"), "fp32", tmp_path)
    info = read_json(tmp_path / "engine.json")
    assert (info["runs_here"], info["why_not"]) == (False, why)
    assert "nodes" not in info
    with pytest.raises(BackendMissing, match=f"the installed build has no {full}"):
        backends.open_engine(tmp_path)


def test_nodes_are_counted_by_provider(graphs: Graphs, tmp_path: Path) -> None:
    backends.build("onnxruntime", Options(), graphs("text"), "fp32", tmp_path)
    assert read_json(tmp_path / "engine.json")["nodes"] == {"CPUExecutionProvider": 9}


def test_the_engine_is_the_graph_byte_for_byte(graphs: Graphs, tmp_path: Path) -> None:
    backends.build("onnxruntime", Options(), graphs("fp32"), "fp32", tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == graphs("fp32").model.read_bytes()


@pytest.mark.parametrize(
    ("provider", "dialect"), [("cuda", "tensorrt"), ("directml", "x86-vnni"), ("xnnpack", "arm"), ("cpu", "x86-vnni")]
)
def test_the_first_provider_decides_the_dialect(provider: str, dialect: str) -> None:
    assert backends.dialect("onnxruntime", Options(providers=(provider,), isa="vnni")) == dialect


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimized": True, "providers": ("cuda", "cpu")}, "only what runs on the CPU alone can be kept"),
        ({"cpu_nodes": "refuse", "providers": ("cuda", "cpu")}, "contradict each other"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(options)


def optimized(graph: Graph, folder: Path) -> Path:
    folder.mkdir()
    backends.build("onnxruntime", Options(optimized=True), graph, "fp32", folder)
    return folder


def answers(folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    with closing(backends.open_engine(folder)) as runner:
        return runner.run(toy_graphs.images(2))["logits"], runner.notes


def test_an_optimized_graph_answers_like_the_graph(graphs: Graphs, tmp_path: Path) -> None:
    folder = optimized(graphs("fp32"), tmp_path / "one")
    kept, notes = answers(folder)
    assert notes == ()
    assert (folder / "optimized.onnx").stat().st_size != (folder / "model.onnx").stat().st_size
    (tmp_path / "plain").mkdir()
    backends.build("onnxruntime", Options(), graphs("fp32"), "fp32", tmp_path / "plain")
    np.testing.assert_array_equal(kept, answers(tmp_path / "plain")[0])


@pytest.mark.parametrize(("key", "value"), [("onnxruntime", "1.0"), ("cpu", "an abacus")])
def test_the_optimized_graph_of_another_machine_is_left_aside_and_that_is_said(
    key: str, value: str, graphs: Graphs, tmp_path: Path
) -> None:
    folder = optimized(graphs("fp32"), tmp_path / "one")
    write_json(folder / "optimized.json", {**read_json(folder / "optimized.json"), key: value})
    (folder / "optimized.onnx").write_bytes(b"of another machine")  # not even read
    found, notes = answers(folder)
    assert found.shape == (2, 4)
    assert notes[0].startswith(f"onnxruntime: the optimized graph is of another machine ({key} was '{value}', here '")


def test_two_optimized_graphs_are_the_same_bytes(graphs: Graphs, tmp_path: Path) -> None:
    one, two = (optimized(graphs("fp32"), tmp_path / name) for name in ("one", "two"))
    assert (one / "optimized.onnx").read_bytes() == (two / "optimized.onnx").read_bytes()


@pytest.mark.parametrize("options", [Options(arena=False), Options(io_binding=True), Options(threads=1)])
def test_no_setting_of_a_run_changes_the_answers(options: Options, graphs: Graphs, tmp_path: Path) -> None:
    for name, chosen in (("plain", Options()), ("set", options)):
        (tmp_path / name).mkdir()
        backends.build("onnxruntime", chosen, graphs("fp32"), "fp32", tmp_path / name)
    np.testing.assert_allclose(answers(tmp_path / "plain")[0], answers(tmp_path / "set")[0], atol=1e-6)


KEPT_IN_FP32 = """
<ir_version: 10, opset_import: ["" : 18]>
mixed (float[1,2,4,4] x) => (float[1,2,4,4] y) <float step = {0.01}, float fine = {0.001}, uint8 zero = {0}> {
  x_q = QuantizeLinear (x, step, zero)
  x_dq = DequantizeLinear (x_q, step, zero)
  made = Conv <group = 2> (x_dq, weight, bias)
  kept = Clip (made, low, high)
  y_q = QuantizeLinear (kept, fine, zero)
  y = DequantizeLinear (y_q, fine, zero)
}
"""


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_weights_that_were_left_in_fp32_stay_in_fp32(
    level: Literal["basic", "extended", "all"], tmp_path: Path
) -> None:
    """Between Q/DQ it would quantize them with one scale a tensor: 0.003 becomes 1/255."""
    model = onnx.parser.parse_model(KEPT_IN_FP32)
    numbers = {
        "weight": np.array([1.0, 0.003]).reshape(2, 1, 1, 1),
        "bias": np.zeros(2),
        "low": np.array(0.0),
        "high": np.array(6.0),
    }
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in numbers.items()
    )
    onnx.save(model, tmp_path / "model.onnx")
    x = np.full((1, 2, 4, 4), 2.0, np.float32)
    answer = engine_of(tmp_path / "model.onnx", Options(optimization=level)).run(None, {"x": x})[0]
    assert answer[0, 1].min() == answer[0, 1].max() == pytest.approx(0.006, abs=1e-6)


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> str:
    """A real provider that takes no node of ours: Azure's, which stock builds have."""
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no provider that leaves all nodes to the CPU")
    monkeypatch.setitem(_providers._OF_FULL, name, _providers.Provider(name, ""))
    return name


def test_nodes_that_a_provider_leaves_to_the_cpu_are_counted_and_said(
    lazy: str, graphs: Graphs, tmp_path: Path
) -> None:
    backends.build("onnxruntime", Options(providers=(lazy, "cpu")), graphs("text"), "fp32", tmp_path)
    info = read_json(tmp_path / "engine.json")
    assert info["nodes"] == {"CPUExecutionProvider": 9}
    assert info["cpu_nodes"]["ReduceSum"] == 2
    with closing(backends.open_engine(tmp_path)) as runner:
        assert runner.notes[0].startswith("onnxruntime: 9 of 9 nodes run on the CPU: 2 ReduceSum, ")


def test_where_asked_a_provider_that_leaves_nodes_to_the_cpu_is_an_error(
    lazy: str, graphs: Graphs, tmp_path: Path
) -> None:
    options = Options(providers=(lazy,), cpu_nodes="refuse")
    with pytest.raises(TlcompileError, match="fallback to CPU EP has been explicitly disabled"):
        backends.build("onnxruntime", options, graphs("text"), "fp32", tmp_path)


def test_the_dialect_of_the_cpu_is_that_of_this_machine() -> None:
    assert backends.dialect("onnxruntime", Options()) == _cpu.dialect("auto")
