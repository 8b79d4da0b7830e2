"""A bf16 graph as ONNX Runtime can compute it on a CPU, which has next to no bf16 kernels.

Every value that the graph holds in bf16 is rounded to bf16; in between nodes compute in fp32. That is what bf16 kernels
do, which sum in fp32 and round what they store; those that are fused round less often. For judging, not for speed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.artifacts import Graph

if TYPE_CHECKING:
    import onnx

_COPIES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Gather", "Identity")
"""What they give is rounded already."""


def computable(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself where it holds no bf16, else a copy in fp32 whose tensors have the same names."""
    import onnx

    if not _holds_bf16(model.graph):
        return model
    inferred = onnx.shape_inference.infer_shapes(model)  # a copy
    _widen(inferred.graph)
    return inferred


def stand_in(graph: Graph, folder: Path) -> Graph:
    """`graph` itself where it holds no bf16, else a folder like its own with one that ONNX Runtime computes."""
    import onnx

    loaded = onnx.load(graph.model)
    if (widened := computable(loaded)) is loaded:
        return graph
    shutil.copytree(graph.folder, folder)
    onnx.save(widened, folder / graph.model.name)
    return Graph(folder, "")


def _holds_bf16(graph: onnx.GraphProto) -> bool:
    """Whether a constant or a Cast of the graph is in bf16, or of one of its branches."""
    from onnx import TensorProto

    if any(constant.data_type == TensorProto.BFLOAT16 for constant in graph.initializer):
        return True
    attributes = [(node.op_type, attribute) for node in graph.node for attribute in node.attribute]
    return any(
        (kind == "Cast" and a.name == "to" and a.i == TensorProto.BFLOAT16) or (a.HasField("g") and _holds_bf16(a.g))
        for kind, a in attributes
    )


def _widen(graph: onnx.GraphProto) -> None:
    """In place; branches too."""
    from onnx import TensorProto

    rounded = set()
    for value in (*graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            rounded.add(value.name)
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for constant in graph.initializer:
        _widen_constant(constant)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t"):
                _widen_constant(attribute.t)
            elif attribute.HasField("g"):
                _widen(attribute.g)
        for index, name in enumerate(node.output):
            if name in rounded and node.op_type not in _COPIES:
                node.output[index], stored = f"{name}/exact", f"{name}/stored"
                nodes.append(_cast(f"{name}/exact", stored, TensorProto.BFLOAT16))
                nodes.append(_cast(stored, name, TensorProto.FLOAT))
    graph.ClearField("node")
    graph.node.extend(nodes)


def _cast(source: str, made: str, to: int) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [made], name=f"{made}/emulated", to=to)


def _widen_constant(constant: onnx.TensorProto) -> None:
    """From bf16 to fp32, which is exact."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if constant.data_type == TensorProto.BFLOAT16:
        value = numpy_helper.to_array(constant).astype(np.float32)
        constant.CopyFrom(numpy_helper.from_array(value, constant.name))
