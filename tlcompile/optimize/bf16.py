"""bf16 as the graph's own precision: the range of fp32 with 8 bits of mantissa. Nothing overflows, all is rounded.

For GPUs from Ampere on, where fp16 would overflow or keep many nodes in fp32. What rounding hurts stays in fp32, as
torch's autocast has it: the preprocessing, squares and sums, exponentials and what divides by their sums, and the node
that answers. So does the product that makes the logits, for rounding would make ties of them; and all that indices and
angles are computed from: bf16 has no number for the 257th position. Operators without a bf16 form stay as well. The
graph is in ONNX opset 22, the first in which convolutions take bf16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.optimize import Context
from tlcompile.optimize._precision import BF16, always_fp32, convert, everything
from tlcompile.optimize._told import told
from tlcompile.options import Field
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
OPSET = 22
EXACT = (
    "BatchNormalization", "CumSum", "Exp", "Log", "LogSoftmax", "ReduceL2", "ReduceSumSquare", "Softmax", "Softplus",
)  # fmt: skip
ANGLES = ("Sin", "Cos")
ABSENT = ("HardSwish",)
"""ONNX has it in bf16, TensorRT does not."""


class Options(Base):
    min_agreement: float = Field(0.9, ge=0, le=1, description="least share of golden examples that keep their label")


def variant(options: Options) -> str:
    return "bf16"


def refused(options: Options, backend: str) -> str:
    """Why `backend` can't run this variant; ''."""
    if backend in ("tensorrt", "tensorrt_rtx", "openvino"):
        return ""
    return f"{backend} does not compute in bf16; fp32 or fp16 runs there"


def tolerance(options: Options) -> Tolerance:
    return Tolerance(max_abs=0.2, agreement=options.min_agreement)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx

    with told("optimize.bf16", "turned into bf16"):
        loaded = onnx.load(model)
        opset = next(i.version for i in loaded.opset_import if i.domain in ("", "ai.onnx"))
        if opset < OPSET:
            loaded = onnx.version_converter.convert_version(loaded, OPSET)
        _, real = everything(loaded)
        exact = {value.name for value in loaded.graph.output} | positions(loaded.graph, set(real))
        lowered = [not stays(node, exact) for node in loaded.graph.node]
        convert(loaded.graph, BF16, lowered, set(real))
        onnx.checker.check_model(loaded, full_check=True)
        onnx.save(loaded, target)


def positions(graph: onnx.GraphProto, real: set[str]) -> set[str]:
    """The fp32 tensors, of all in `real`, that whole numbers and angles are computed from."""
    from onnx import TensorProto, helper

    def whole(node: onnx.NodeProto) -> bool:
        to = next((a.i for a in node.attribute if node.op_type == "Cast" and a.name == "to"), TensorProto.FLOAT)
        return helper.tensor_dtype_to_np_dtype(to).kind in "iu"

    found: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in ANGLES or whole(node) or found & set(node.output):
            found |= real & set(node.input)
    return found


def stays(node: onnx.NodeProto, exact: set[str]) -> bool:
    """Whether `node` is computed in fp32. `exact`: tensors that must not be rounded."""
    if always_fp32(node) or node.op_type in EXACT + ANGLES + ABSENT or exact & set(node.output):
        return True
    return bool(node.domain) or not _has_bf16(node.op_type)


def _has_bf16(operator: str) -> bool:
    """Whether ONNX has the operator in bf16."""
    from onnx import defs

    constraints = defs.get_schema(operator, OPSET).type_constraints
    return any("tensor(bfloat16)" in constraint.allowed_type_strs for constraint in constraints)
