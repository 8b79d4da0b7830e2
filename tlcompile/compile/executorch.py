"""ExecuTorch: the network as a program (`model.pte`) whose layers XNNPACK runs on the CPU of a phone or board.

ExecuTorch compiles torch programs, so the graph is turned into one (`_to_torch`); Q/DQ becomes XNNPACK's int8 kernels.
It takes one shape: see `_fixed` for how images of any size, batches and texts reach it. What XNNPACK does not take runs
in ExecuTorch's portable kernels; `engine.json` counts both. The Python package needs torch to run, the C++
one does not.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.compile import _cpu
from tlcompile.compile._fixed import FixedOptions, FixedRunner, prepare

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.artifacts import Graph

PACKAGES = ("executorch", "torchao", "torch")
INPUTS_ONLY = True
INSTALL = "pip install executorch"
_PROGRAM = "model.pte"


class Options(FixedOptions):
    pass


def dialect(options: Options) -> str:
    return "arm"  # XNNPACK's kernels are s8 x s8, on every CPU


def refuses(variant: str, kind: str) -> str:
    return "" if variant in ("fp32", "int8") else f"ExecuTorch's engines are fp32 or int8 here, not {variant}"


def missing() -> str:
    spec = importlib.util.find_spec("executorch")
    return f"executorch is not installed: {INSTALL}" if spec is None else ""


def runs_here(options: Options) -> str:
    return missing()


def device(options: Options) -> dict[str, str]:
    return _cpu.device()


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """Write `model.pte`; `operators`: how many calls go to XNNPACK and to which other kernels."""
    import tempfile

    from tlcompile.compile._to_executorch import lower

    with tempfile.TemporaryDirectory() as scratch:
        return lower(prepare(graph, options, folder, Path(scratch), int8=True), folder / _PROGRAM)


def open(folder: Path, options: Options) -> FixedRunner:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(folder / _PROGRAM)
    program.load_method("forward")  # the program keeps it, and must outlive it: a method reads its program's memory

    def call(inputs: list[np.ndarray]) -> list[np.ndarray]:
        import importlib

        tensor = importlib.import_module("torch").from_numpy
        return [value.numpy() for value in program.load_method("forward").execute([tensor(a) for a in inputs])]

    return FixedRunner(folder, call)
