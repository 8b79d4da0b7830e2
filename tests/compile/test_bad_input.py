"""What TensorRT may be asked for and can't do, as far as TensorRT-RTX's builder, which needs no GPU, does the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from tlcompile.artifacts import Graph
from tlcompile.compile import _cuda, _nvidia, _profiles, tensorrt
from tlcompile.compile.tensorrt import Options
from tlcompile.errors import TlcompileError

Graphs = Callable[[str], Graph]


def build(graph: Graph, options: Options) -> bytes:
    trt: Any = pytest.importorskip("tensorrt_rtx")

    def configure(config: Any) -> None:
        tensorrt._configure(trt, config, options)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)

    network = _nvidia.Network(trt, "tensorrt", graph.model)
    return bytes(network.build("sm86", _profiles.shapes(options, graph.signature), False, configure))


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")  # of its timing cache
@pytest.mark.parametrize(
    ("workspace_mib", "what"),
    [
        (1, "Tactic Selection: no tactics to implement the operation within workspace limit"),
        (64, "out of memory: Requested size was 671"),
    ],
)
def test_no_space_for_the_workspace_is_told(workspace_mib: int, what: str, graphs: Graphs) -> None:
    if workspace_mib > 1 and not _cuda.why_no_gpu():
        pytest.skip("there is a GPU here, with that memory")
    with pytest.raises(TlcompileError) as caught:
        build(graphs("fp32"), Options(workspace_mib=workspace_mib))
    told = str(caught.value)
    assert told.startswith(f"tensorrt: sm86: the build failed: {what}")
    assert ".cpp" not in told


@pytest.mark.parametrize("size", [0, -1, 0.5, "all"])
def test_a_workspace_of_no_size_is_refused(size: object) -> None:
    with pytest.raises(ValidationError, match="workspace_mib"):
        Options.model_validate({"workspace_mib": size})
