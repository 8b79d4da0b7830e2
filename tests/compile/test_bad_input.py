"""What TensorRT may be asked for and can't do, as far as TensorRT-RTX's builder, which needs no GPU, does the same."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_graphs
from pydantic import ValidationError

from tlcompile.artifacts import Graph
from tlcompile.compile import _cuda, _nvidia, _profiles, tensorrt
from tlcompile.compile.tensorrt import Options
from tlcompile.errors import TlcompileError

Graphs = Callable[[str], Graph]


@pytest.fixture(autouse=True)
def failed_builders_end_here() -> Iterator[None]:
    """Not inside a callback of the next test that makes a builder."""
    yield
    gc.collect()


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


AFTER_A_FAILURE = """
import gc, sys
from pathlib import Path
import tensorrt_rtx as trt
from tlcompile.compile import _nvidia

def eager(library, log):
    made = quiet(library, log)
    kept = type(made).log
    def collecting(self, *message):
        gc.set_threshold(1)
        [[] for _ in range(100)]
        kept(self, *message)
    type(made).log = collecting
    return made

gc.set_threshold(10**6)
failed = _nvidia.Network(trt, "tensorrt", Path(sys.argv[1]))
failed.itself = failed  # as a traceback does
del failed
quiet, _nvidia.logger = _nvidia.logger, eager
_nvidia.Network(trt, "tensorrt", Path(sys.argv[1]))
print("made")
"""


def test_a_build_after_a_failed_one_does_not_hang(graphs: Graphs) -> None:
    pytest.importorskip("tensorrt_rtx")
    command = [sys.executable, "-c", AFTER_A_FAILURE, str(graphs("fp32").model)]
    environment = {**os.environ, "PYTHONPATH": str(Path(toy_graphs.__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == "made\n", done.stderr
