"""An ONNX graph of fixed shapes -> a torch module, for converters that read torch programs only.

Each node becomes the torch function of the same meaning, so that what a converter traces is the graph itself. Q/DQ
nodes become torch's `quantized_decomposed` operators, which mobile runtimes fuse into int8 kernels. Operators are those
that are left when shapes are fixed and constants folded; another one is an error that names it.

Nothing else of tlcompile is imported: a converter whose pins conflict with ours runs copies of these files elsewhere.
Why not onnx2torch: it takes weights from initializers only, and in a quantized graph they come out of Q/DQ nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._torch_operators import OPERATORS, UnknownOperator

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import torch

STATIC = {
    "Clip": (1, 2), "CumSum": (1,), "DequantizeLinear": (1, 2), "Expand": (1,), "Pad": (1, 2, 3),
    "QuantizeLinear": (1, 2), "ReduceL2": (1,), "ReduceMax": (1,), "ReduceMean": (1,), "ReduceSum": (1,),
    "Reshape": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,), "Trilu": (1,),
    "Unsqueeze": (1,),
}  # fmt: skip
"""Inputs that must be constants of the graph; functions get them as numpy arrays, the others as tensors."""


def module(file: Path) -> torch.nn.Module:
    """The network in `file`; its forward takes and gives tensors in the order of the graph's inputs and outputs."""
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    values = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values[node.output[0]] = np.array(numpy_helper.to_array(node.attribute[0].t))
    steps = _steps(graph, values)
    inputs, outputs = [v.name for v in graph.input], [v.name for v in graph.output]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            used = dict.fromkeys(name for step in steps for name in step.tensors if name in values)
            self.places = {name: f"constant_{index}" for index, name in enumerate(used)}
            for name, place in self.places.items():
                self.register_buffer(place, torch.from_numpy(values[name]))

        def forward(self, *feed: torch.Tensor) -> tuple[torch.Tensor, ...]:
            known = {name: getattr(self, place) for name, place in self.places.items()}
            known.update(zip(inputs, feed, strict=True))
            for step in steps:
                result = step.function(*(known.get(name) for name in step.tensors))
                made = result if isinstance(result, tuple) else (result,)
                known.update(zip(step.outputs, made, strict=False))
            return tuple(known[name] for name in outputs)

    return Network().eval()


def example(file: Path) -> tuple[torch.Tensor, ...]:
    """Inputs of the network in `file`, of its fixed shapes, all zero but token ids and masks, which are one."""
    import onnx
    import torch

    whole = onnx.TensorProto.INT64
    kinds = [value.type.tensor_type for value in onnx.load(file).graph.input]
    shapes = [[dim.dim_value for dim in kind.shape.dim] for kind in kinds]
    types = [torch.int64 if kind.elem_type == whole else torch.float32 for kind in kinds]
    return tuple(torch.full(shape, int(t == torch.int64), dtype=t) for shape, t in zip(shapes, types, strict=True))


class _Step:
    """One node: `function` of the tensors called `tensors`; its constants and attributes are bound already."""

    def __init__(self, node: onnx.NodeProto, values: dict[str, np.ndarray], function: Callable[..., Any]) -> None:
        from onnx import helper

        static = () if _per_channel(node, values) else STATIC.get(node.op_type, ())
        computed = [name for i, name in enumerate(node.input) if i in static and name and name not in values]
        if computed:
            raise UnknownOperator(f"'{computed[0]}' of the {node.op_type} '{node.name}' is computed, not a constant")
        bound = [values.get(name) if i in static else None for i, name in enumerate(node.input)]
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.tensors = [name for i, name in enumerate(node.input) if i not in static]
        self.outputs = list(node.output)

        def run(*tensors: Any) -> Any:
            rest = iter(tensors)
            return function(*(bound[i] if i in static else next(rest) for i in range(len(bound))), **given)

        self.function = run


def _steps(graph: onnx.GraphProto, values: dict[str, np.ndarray]) -> list[_Step]:
    nodes = [node for node in graph.node if node.op_type != "Constant" and not _folded(node, values)]
    if unknown := sorted({node.op_type for node in nodes} - set(OPERATORS)):
        raise UnknownOperator(f"no torch function is known for the operator {', '.join(unknown)}")
    made = {node.output[0]: node for node in nodes}
    steps = []
    for node in nodes:
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transB", 0)):
            steps += [_Step(before, values, OPERATORS[before.op_type]) for before in _turn(node, made, values)]
        steps.append(_Step(node, values, OPERATORS[node.op_type]))
    return steps


def _per_channel(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> bool:
    """Whether `node` dequantizes with a scale for each channel; those stay tensors, their zero points as torch's."""
    if node.op_type != "DequantizeLinear" or values[node.input[1]].size == 1:
        return False
    values[node.input[2]] = values[node.input[2]].astype(np.int64)
    return True


def _folded(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> bool:
    """Whether `node` makes a quantized bias a number again: runtimes quantize biases themselves."""
    if node.op_type != "DequantizeLinear" or node.input[0] not in values or values[node.input[0]].dtype != np.int32:
        return False
    values[node.output[0]] = (values[node.input[0]] * values[node.input[1]]).astype(np.float32)
    return True


def _turn(node: onnx.NodeProto, made: dict[str, onnx.NodeProto], values: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """A product with constant weights [K, N] gets them as [N, K]: a linear layer, the form that runtimes fuse.

    Returns the node that dequantizes the turned weights, where they are quantized.
    """
    import onnx
    from onnx import helper

    behind = made.get(node.input[1])
    name = behind.input[0] if behind is not None and behind.op_type == "DequantizeLinear" else node.input[1]
    if name not in values or values[name].ndim != 2:
        return []
    turned = f"{name}/turned"
    values[turned] = np.ascontiguousarray(values[name].T)
    if node.op_type == "MatMul":
        node.op_type = "Linear"
    else:
        kept = [a for a in node.attribute if a.name != "transB"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("transB", 1)])
    if behind is None or name == node.input[1]:
        node.input[1] = turned
        return []
    again = onnx.NodeProto()
    again.CopyFrom(behind)
    again.input[0], again.output[0] = turned, f"{node.input[1]}/turned"
    del again.attribute[:]
    again.attribute.append(helper.make_attribute("axis", 1 - _attribute(behind, "axis", 1) % 2))
    node.input[1] = again.output[0]
    return [again]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
