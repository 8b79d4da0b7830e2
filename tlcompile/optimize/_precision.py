"""Rewriting an fp32 graph so that nodes compute in a lower floating-point type; which ones, the pass says.

Casts stand only where the precision changes, so nothing is rounded between two nodes in fp32. Inputs and outputs of the
graph keep their types. ONNX Runtime's own converter rounds there, and made names twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime

SUMS = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceMean", "ReduceSum", "Pow")
UNTYPED = ("Resize", "Range", "If", "Loop", "Scan", "QuantizeLinear", "DequantizeLinear")
"""Operators with inputs that must be fp32, without a lower form, or with graphs of their own."""
ANSWERS = ("probabilities", "from_mean", "values")


@dataclass(frozen=True)
class Lower:
    """A type below fp32. `kind`: its name in ONNX; `word` ends the names of copies in it; `largest`: finite."""

    kind: str
    word: str
    largest: float

    @property
    def type(self) -> int:
        from onnx import TensorProto

        return int(TensorProto.DataType.Value(self.kind))

    def tensor(self, constant: onnx.TensorProto, name: str) -> onnx.TensorProto:
        """A copy of an fp32 constant; finite values beyond the range, such as the lowest of a mask, become its ends."""
        import numpy as np
        from onnx import helper, numpy_helper

        value = numpy_helper.to_array(constant)
        inside: np.ndarray = np.where(np.isfinite(value), value.clip(-self.largest, self.largest), value)
        return numpy_helper.from_array(inside.astype(helper.tensor_dtype_to_np_dtype(self.type)), name)


HALF = Lower("FLOAT16", "half", 65504.0)
BF16 = Lower("BFLOAT16", "bf16", (2 - 2**-7) * 2.0**127)


def always_fp32(node: onnx.NodeProto) -> bool:
    """Preprocessing, squares and sums, the node that answers, and what has no lower form."""
    return node.name.startswith("preprocess/") or node.name in ANSWERS or node.op_type in SUMS + UNTYPED


def everything(model: onnx.ModelProto) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A session in which nothing is fused and every tensor is an output; the names of the fp32 ones."""
    import onnx

    from tlcompile.optimize._observe import plain_session

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name for value in exposed.graph.output}
    made = [name for node in exposed.graph.node for name in node.output if name and name not in known]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = plain_session(exposed)
    return session, [output.name for output in session.get_outputs() if output.type == "tensor(float)"]


def convert(graph: onnx.GraphProto, lower: Lower, lowered: Sequence[bool], real: set[str]) -> None:
    """Give every node the precision that `lowered` says. `real`: names of the fp32 tensors that nodes make."""
    converter = _Converter(graph, lower, real)
    for node, is_lower in zip(list(graph.node), lowered, strict=True):
        converter.add(node, is_lower)
    used = {name for node in converter.nodes for name in node.input}
    kept = [i for i in (*graph.initializer, *converter.copies) if i.name in used]
    graph.ClearField("node")
    graph.node.extend(converter.nodes)
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    graph.ClearField("value_info")


class _Converter:
    """Rewrites `graph` node by node. `real`: names of its fp32 tensors."""

    def __init__(self, graph: onnx.GraphProto, lower: Lower, real: set[str]) -> None:
        from onnx import TensorProto

        self.to = lower
        self.constants = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT}
        fed = {i.name for i in graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.real = real | set(self.constants) | fed
        self.outputs = {value.name for value in graph.output}
        self.lowered: set[str] = set()  # tensors that their nodes make in the lower type
        self.twins: dict[tuple[str, bool], str] = {}  # (tensor, wanted lower) -> its name in that precision
        self.nodes: list[onnx.NodeProto] = []
        self.copies: list[onnx.TensorProto] = []

    def wanted(self, name: str, lower: bool) -> str:
        """`name` in the precision asked for; a cast or a copy of a constant is added where there is none yet."""
        if name not in self.real or (name in self.lowered) == lower:
            return name
        if (name, lower) not in self.twins:
            self.twins[name, lower] = twin = f"{name}/{self.to.word if lower else 'fp32'}"
            if name in self.constants:
                self.copies.append(self.to.tensor(self.constants[name], twin))
            else:
                self.cast(name, twin, lower)
        return self.twins[name, lower]

    def cast(self, name: str, twin: str, lower: bool) -> None:
        from onnx import TensorProto, helper

        to = self.to.type if lower else TensorProto.FLOAT
        self.nodes.append(helper.make_node("Cast", [name], [twin], name=f"{twin}/Cast", to=to))

    def add(self, node: onnx.NodeProto, lower: bool) -> None:
        """`node` in its precision. An output of the graph stays in fp32 under its name."""
        if node.op_type != "Cast":
            node.input[:] = [self.wanted(name, lower) for name in node.input]
        self.nodes.append(node)
        if not lower:
            return
        self.retype(node)
        for index, name in enumerate(node.output):
            if name in self.real and name in self.outputs:
                node.output[index] = self.twins[name, True] = f"{name}/{self.to.word}"
                self.cast(node.output[index], name, lower=False)
            elif name in self.real:
                self.lowered.add(name)

    def retype(self, node: onnx.NodeProto) -> None:
        """Attributes that say fp32 say the lower type."""
        from onnx import TensorProto

        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.to.type
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(self.to.tensor(attribute.t, attribute.t.name))
