"""Core ML: the network as `model.mlpackage` for Apple's systems.

coremltools reads torch programs; the graph is turned into one (`_to_torch`). Other systems can make the package and not
run it: there it is read back, and its inputs, outputs and operators are checked and counted in `engine.json`.
It takes one shape; see `_fixed` for how images of any size, batches and texts reach it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tlcompile.compile import _cpu
from tlcompile.compile._fixed import FixedOptions, FixedRunner, prepare
from tlcompile.errors import BackendMissing, Problem
from tlcompile.options import Field

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.artifacts import Graph

PACKAGES = ("coremltools",)
INPUTS_ONLY = True
INSTALL = "pip install coremltools"
UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu-gpu": "CPU_AND_GPU", "cpu-ne": "CPU_AND_NE"}
"""`units` -> coremltools' name."""
_PACKAGE = "model.mlpackage"


class Options(FixedOptions):
    precision: Literal["f32", "f16"] = Field(
        "f32", description="arithmetic and weights; f16 is what Apple's neural engine wants"
    )
    units: Literal["all", "cpu", "cpu-gpu", "cpu-ne"] = Field("all", description="who may run it on the device")


def dialect(options: Options) -> str:
    return "arm"


def refuses(variant: str, kind: str) -> str:
    return "" if variant == "fp32" else f"Core ML's engines are made of the fp32 graph here, not of {variant}"


def missing() -> str:
    return f"coremltools is not installed: {INSTALL}" if importlib.util.find_spec("coremltools") is None else ""


def runs_here(options: Options) -> str:
    return missing() or ("" if sys.platform == "darwin" else "Core ML runs on Apple's systems only")


def device(options: Options) -> dict[str, str]:
    return _cpu.device()


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """Write the package; `operators`: how many of each kind the program in it has, as read back."""
    import tempfile

    from tlcompile.compile._to_coreml import convert

    with tempfile.TemporaryDirectory() as scratch:
        network = prepare(graph, options, folder, Path(scratch), int8=False)
        return {"operators": convert(network, folder / _PACKAGE, half=options.precision == "f16")}


def open(folder: Path, options: Options) -> FixedRunner:
    if reason := runs_here(options):
        raise BackendMissing(Problem("coreml", reason))
    import coremltools as ct

    model = ct.models.MLModel(str(folder / _PACKAGE), compute_units=ct.ComputeUnit[UNITS[options.units]])
    description = model.get_spec().description
    inputs, outputs = [v.name for v in description.input], [v.name for v in description.output]

    def call(arrays: list[np.ndarray]) -> list[np.ndarray]:
        feed = {n: a.astype("int32") if a.dtype == "int64" else a for n, a in zip(inputs, arrays, strict=True)}
        answers = model.predict(feed)
        return [answers[name] for name in outputs]

    return FixedRunner(folder, call)
