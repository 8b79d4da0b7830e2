"""Dynamic int8 for text: weights in int8, activations quantized while the network runs, each feed by its own range.

No calibration, so a range fits short and long texts alike, and outliers of one text don't coarsen another. It costs a
pass over each activation. Products with weights become MatMulInteger behind DynamicQuantizeLinear, whose kernels only
ONNX Runtime has; the rest stays in fp32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.errors import Problem, TlcompileError
from tlcompile.optimize import Context
from tlcompile.optimize._exclude import named
from tlcompile.options import Field, NameList
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    from tlcompile.optimize._graph import Wiring

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
WHERE = "optimize.dynamic"


class Options(Base):
    per_channel: bool = Field(True, description="a scale for each output channel of a weight; false: one for all")
    exclude: NameList = Field((), description="nodes that stay in fp32, by name or pattern ('*' any text, '[0-9]')")
    min_agreement: float = Field(0.8, ge=0, le=1, description="least share of golden examples that keep their label")


def variant(options: Options) -> str:
    return "dynamic-int8"


def refused(options: Options, backend: str) -> str:
    """Why `backend` can't run this variant; ''."""
    if backend == "onnxruntime":
        return ""
    return f"dynamic int8 is made of MatMulInteger, which {backend} has no int8 kernels for; only onnxruntime has"


def tolerance(options: Options) -> Tolerance:
    return Tolerance(max_abs=1.0, agreement=options.min_agreement)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from tlcompile.optimize import _qdq
    from tlcompile.optimize._graph import Wiring, has_weight
    from tlcompile.optimize._told import told

    with told(WHERE, "quantized"), tempfile.TemporaryDirectory() as scratch:
        graph = _qdq.prepared(model, Path(scratch) / "prepared.onnx")
        excluded = named(graph.graph, options.exclude, WHERE)
        wiring = Wiring(graph.graph)
        products = [n.name for n in graph.graph.node if n.op_type in ("MatMul", "Gemm") and has_weight(wiring, n)]
        chosen = [name for name in products if name not in excluded]
        _turn_weights(wiring)
        onnx.save(graph, Path(scratch) / "prepared.onnx")
        if not chosen:
            raise TlcompileError(Problem(WHERE, "nothing is left to quantize: no MatMul or Gemm with a weight"))
        quantize_dynamic(
            Path(scratch) / "prepared.onnx",
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=[*chosen, *(f"{name}_MatMul" for name in chosen)],  # the latter: what becomes of a Gemm
            per_channel=options.per_channel,
            reduce_range=context.dialect == "x86",
            weight_type=QuantType.QInt8,
        )


def _turn_weights(wiring: Wiring) -> None:
    """Store the weights of every Gemm inputs first, under names of their own.

    ONNX Runtime's quantizer makes a MatMul of each Gemm, quantized or not, and where it turns a weight over it keeps
    the name, under which the weight is then held against the original.
    """
    import numpy as np

    from tlcompile.optimize._graph import attribute, has_weight

    for node in wiring.graph.node:
        if node.op_type == "Gemm" and has_weight(wiring, node) and attribute(node, "transB", 0):
            wiring.put(node, 1, np.ascontiguousarray(wiring.value(node.input[1]).T))
            (turned,) = (a for a in node.attribute if a.name == "transB")
            node.attribute.remove(turned)
