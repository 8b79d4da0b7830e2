"""The products of an ONNX graph: their multiply-adds, and the bytes that they move.

Shapes are those of one run in ONNX Runtime, for inference can't follow every dynamic graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from tlcompile.artifacts import Feed

PRODUCTS = ("Conv", "Gemm", "MatMul", "MatMulInteger")


@dataclass(frozen=True)
class Layer:
    """One product. What it reads that is no constant counts as activation, and so does what it writes."""

    name: str
    macs: int
    weight_bytes: int
    activation_bytes: int
    int8: bool
    depthwise: bool


@dataclass(frozen=True)
class _Value:
    shape: tuple[int, ...]
    width: int  # bytes of an element, as it is stored
    constant: bool


def products(model: onnx.ModelProto, feed: Feed) -> list[Layer]:
    """Every product of `model`, in its order, as `feed` makes it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes = [node for node in model.graph.node if node.op_type in PRODUCTS]
    names = {name for node in nodes for name in (*node.input[:2], node.output[0])}
    arrays = _arrays(model, names | {_stored(name, makers) for name in names}, feed)
    constants = {i.name for i in model.graph.initializer}

    def value(name: str) -> _Value:
        stored = _stored(name, makers)
        return _Value(arrays[name].shape, arrays[stored].itemsize, stored in constants)

    return [_layer(node, *map(value, (*node.input[:2], node.output[0]))) for node in nodes]


def _stored(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """What lies in memory: of a tensor that DequantizeLinear makes, that node's input."""
    maker = makers.get(name)
    return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name


def _arrays(model: onnx.ModelProto, names: set[str], feed: Feed) -> Feed:
    """The tensors called `names`: constants, inputs and what nodes make, unoptimized."""
    import onnxruntime as ort

    found = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name in names}
    found |= {name: value for name, value in feed.items() if name in names}
    wanted = sorted(names - set(found))
    told = onnx.ModelProto()
    told.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(told.SerializeToString(), settings)
    return found | dict(zip(wanted, map(np.asarray, session.run(wanted, feed)), strict=True))


def _layer(node: onnx.NodeProto, data: _Value, operand: _Value, answer: _Value) -> Layer:
    if node.op_type == "Conv":
        inner = math.prod(operand.shape[1:])
    else:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        inner = operand.shape[-1] if transposed else operand.shape[-2]
    read = math.prod(operand.shape) * operand.width
    # An int8 product writes int8: its answer is requantized before it leaves the registers.
    moved = math.prod(data.shape) * data.width + math.prod(answer.shape) * data.width
    return Layer(
        node.name,
        math.prod(answer.shape) * inner,
        read if operand.constant else 0,
        moved + (0 if operand.constant else read),
        data.width == operand.width == 1,
        node.op_type == "Conv" and operand.shape[1] == 1 and operand.shape[0] > 1,
    )
