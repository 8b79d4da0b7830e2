"""Dynamic int8 for text: weights in int8, activations quantized while the network runs, each feed by its own range.

No calibration, so a range fits short and long texts alike, and outliers of one text don't coarsen another. It costs a
pass over each activation. Products with weights become MatMulInteger behind DynamicQuantizeLinear, whose kernels only
ONNX Runtime has; the rest stays in fp32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tlcompile.errors import Problem, TlcompileError
from tlcompile.optimize import Context
from tlcompile.optimize._exclude import named
from tlcompile.options import Field, NameList
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

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
        if not chosen:
            raise TlcompileError(Problem(WHERE, "nothing is left to quantize: no MatMul or Gemm with a weight"))
        quantize_dynamic(
            Path(scratch) / "prepared.onnx",
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=chosen,
            per_channel=options.per_channel,
            reduce_range=context.dialect == "x86",
            weight_type=QuantType.QInt8,
        )
