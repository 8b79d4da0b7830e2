"""fp16 as the graph's own precision: weights and activations in half, with the nodes that would overflow kept in fp32.

The fp32 graph is run over calibration examples with every tensor exposed. A node that takes or makes a value beyond the
largest half (65504), divided by `headroom`, stays in fp32. So do the preprocessing, squares and sums (norms overflow
first there) and the node that answers. Casts stand only where the precision changes, so nothing is rounded between two
nodes in fp32. Inputs and outputs keep their types. ONNX Runtime's own converter rounds there, and made names twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.artifacts import Feed
from tlcompile.optimize import Context
from tlcompile.optimize._told import told
from tlcompile.options import Field
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    import numpy as np
    import onnx

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
LARGEST, SMALLEST = 65504.0, 6.1e-5  # finite; with all bits of the mantissa
SUMS = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceMean", "ReduceSum", "Pow")
UNTYPED = ("Resize", "Range", "If", "Loop", "Scan", "QuantizeLinear", "DequantizeLinear")
"""Operators with inputs that must be fp32, without a half form, or with graphs of their own."""
ANSWERS = ("probabilities", "from_mean", "values")


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
    half = [not stays(node, limits, LARGEST / options.headroom) for node in loaded.graph.node]
    _convert(loaded.graph, half, set(peaks))
    onnx.checker.check_model(loaded)
    onnx.save(loaded, target)


def largest(model: onnx.ModelProto, feeds: Iterator[Feed]) -> dict[str, float]:
    """Largest absolute value of every fp32 tensor that a node makes; the lowest value of a mask does not count."""
    import numpy as np
    import onnx
    import onnxruntime

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name for value in exposed.graph.output}
    made = [name for node in exposed.graph.node for name in node.output if name and name not in known]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.type == "tensor(float)"]
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
    if node.name.startswith("preprocess/") or node.name in ANSWERS or node.op_type in SUMS + UNTYPED:
        return True
    return any(not peaks.get(name, 0.0) <= limit for name in (*node.input, *node.output))


class _Converter:
    """Rewrites `graph` node by node. `real`: names of its fp32 tensors."""

    def __init__(self, graph: onnx.GraphProto, real: set[str]) -> None:
        from onnx import TensorProto

        self.constants = {i.name: i for i in graph.initializer if i.data_type == TensorProto.FLOAT}
        fed = {i.name for i in graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.real = real | set(self.constants) | fed
        self.outputs = {value.name for value in graph.output}
        self.in_half: set[str] = set()  # tensors that their nodes make in half
        self.twins: dict[tuple[str, bool], str] = {}  # (tensor, wanted in half) -> its name in that precision
        self.nodes: list[onnx.NodeProto] = []
        self.copies: list[onnx.TensorProto] = []

    def wanted(self, name: str, half: bool) -> str:
        """`name` in the precision asked for; a cast or a copy of a constant is added where there is none yet."""
        from onnx import numpy_helper

        if name not in self.real or (name in self.in_half) == half:
            return name
        if (name, half) not in self.twins:
            self.twins[name, half] = twin = f"{name}/{'half' if half else 'fp32'}"
            if name in self.constants:
                self.copies.append(numpy_helper.from_array(_halved(self.constants[name]), twin))
            else:
                self.cast(name, twin, half)
        return self.twins[name, half]

    def cast(self, name: str, twin: str, half: bool) -> None:
        from onnx import TensorProto, helper

        to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.nodes.append(helper.make_node("Cast", [name], [twin], name=f"{twin}/Cast", to=to))

    def add(self, node: onnx.NodeProto, half: bool) -> None:
        """`node` in its precision. An output of the graph stays in fp32 under its name."""
        if node.op_type != "Cast":
            node.input[:] = [self.wanted(name, half) for name in node.input]
        self.nodes.append(node)
        if not half:
            return
        _retype(node)
        for index, name in enumerate(node.output):
            if name in self.real and name in self.outputs:
                node.output[index] = self.twins[name, True] = f"{name}/half"
                self.cast(f"{name}/half", name, half=False)
            elif name in self.real:
                self.in_half.add(name)


def _convert(graph: onnx.GraphProto, half: list[bool], real: set[str]) -> None:
    """Give every node the precision that `half` says. `real`: names of the fp32 tensors that nodes make."""
    converter = _Converter(graph, real)
    for node, as_half in zip(list(graph.node), half, strict=True):
        converter.add(node, as_half)
    used = {name for node in converter.nodes for name in node.input}
    kept = [i for i in (*graph.initializer, *converter.copies) if i.name in used]
    graph.ClearField("node")
    graph.node.extend(converter.nodes)
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    graph.ClearField("value_info")


def _halved(constant: onnx.TensorProto) -> np.ndarray:
    """In half; finite values beyond its range, such as the lowest of a mask, become its largest."""
    import numpy as np
    from onnx import numpy_helper

    value = numpy_helper.to_array(constant)
    return np.where(np.isfinite(value), value.clip(-LARGEST, LARGEST), value).astype(np.float16)


def _retype(node: onnx.NodeProto) -> None:
    """Attributes that say fp32 say half."""
    from onnx import TensorProto, numpy_helper

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(_halved(attribute.t), attribute.t.name))
