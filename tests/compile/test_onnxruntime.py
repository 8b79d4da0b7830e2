from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tlcompile import compile as backends
from tlcompile.artifacts import Graph, read_json
from tlcompile.compile import onnxruntime
from tlcompile.compile.onnxruntime import Options
from tlcompile.errors import BackendMissing

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
        ((), "at least 1 item"),
    ],
)
def test_wrong_providers_are_refused_by_the_recipe(providers: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Options(providers=providers)
    assert message in str(caught.value)


@pytest.mark.parametrize("provider", sorted(set(onnxruntime._PROVIDERS) - {"cpu"}))
def test_a_provider_that_the_build_lacks_is_told_and_never_replaced(
    provider: str, graphs: Graphs, tmp_path: Path
) -> None:
    options = Options(providers=(provider, "cpu"))
    if not onnxruntime._unavailable(options):
        pytest.skip(f"this build of ONNX Runtime has {provider}")
    full, install, _ = onnxruntime._PROVIDERS[provider]
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
    ("provider", "dialect"), [("cuda", "tensorrt"), ("dml", "x86-vnni"), ("xnnpack", "arm"), ("cpu", "x86-vnni")]
)
def test_the_first_provider_decides_the_dialect(provider: str, dialect: str) -> None:
    assert backends.dialect("onnxruntime", Options(providers=(provider,), isa="vnni")) == dialect
