"""fp16 as the graph's own precision: weights and activations in half, with the nodes that would overflow kept in fp32.

The fp32 graph is run over calibration examples with every tensor exposed. A node that takes or makes a value beyond the
largest half (65504), divided by `headroom`, stays in fp32. So do the preprocessing, squares and sums (norms overflow
first there), Transposes that ONNX Runtime crashes on (see `_turned`) and the node that answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.artifacts import Feed
from tlcompile.optimize import Context
from tlcompile.optimize._precision import HALF, always_fp32, convert, everything
from tlcompile.optimize._told import told
from tlcompile.optimize._turned import turned
from tlcompile.options import Field
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
SMALLEST = 6.1e-5  # with all bits of the mantissa


class Options(Base):
    headroom: float = Field(4.0, ge=1, description="a node stays in fp32 from 65504 / headroom on")
    examples: int = Field(32, ge=1, description="calibration examples that large values are looked for in")
    min_agreement: float = Field(0.95, ge=0, le=1, description="least share of golden examples that keep their label")


def variant(options: Options) -> str:
    return "fp16"


def tolerance(options: Options) -> Tolerance:
    return Tolerance(max_abs=0.1, agreement=options.min_agreement)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx

    with told("optimize.half", "turned into fp16"):
        loaded = onnx.load(model)
        peaks = largest(loaded, islice(context.calibration(), options.examples))
        limits = peaks | constants(loaded)
    kept, limit = turned(loaded.graph), HALF.largest / options.headroom
    half = [not (stays(node, limits, limit) or kept & set(node.output)) for node in loaded.graph.node]
    convert(loaded.graph, HALF, half, set(peaks))
    onnx.checker.check_model(loaded)
    onnx.save(loaded, target)


def largest(model: onnx.ModelProto, feeds: Iterator[Feed]) -> dict[str, float]:
    """Largest absolute value of every fp32 tensor that a node makes; the lowest value of a mask does not count."""
    import numpy as np

    session, names = everything(model)
    peaks = dict.fromkeys(names, 0.0)
    lowest = np.finfo(np.float32).min / 2
    for feed in feeds:
        for name, value in zip(names, session.run(names, feed), strict=True):
            peaks[name] = max(peaks[name], float(np.abs(value[value > lowest]).max(initial=0.0)))
    return peaks


def constants(model: onnx.ModelProto) -> dict[str, float]:
    """Largest absolute value of every fp32 constant; infinite where a number would become 0 in half, as an epsilon."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = np.abs(kept := numpy_helper.to_array(tensor))[kept > np.finfo(np.float32).min / 2]
            lost = value.size == 1 and 0 < float(value.max()) < SMALLEST
            found[tensor.name] = float("inf") if lost else float(value.max(initial=0.0))
    return found


def stays(node: onnx.NodeProto, peaks: dict[str, float], limit: float) -> bool:
    """Whether `node` is computed in fp32. NaN counts as large."""
    return always_fp32(node) or any(not peaks.get(name, 0.0) <= limit for name in (*node.input, *node.output))
