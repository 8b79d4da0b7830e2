"""Q/DQ nodes in the dialect of a target, around the nodes and with the ranges that it is told.

    x86-vnni   u8 activations × s8 weights per channel
    x86        the same with 7-bit weights: without VNNI the 16-bit sums of vpmaddubsw saturate
    arm        s8 × s8 per channel
    tensorrt   s8 × s8 per channel, symmetric activations, biases and sums with constants left in fp32: TensorRT takes
               quantized constants as weights only

The nodes are written by ONNX Runtime's quantizer. Finding ranges is not its business here, so that one set of ranges
serves many choices of layers.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.optimize._graph import PREPROCESSING, PRODUCTS

if TYPE_CHECKING:
    import onnx

    from tlcompile.optimize._ranges import Ranges

AROUND_CONVOLUTIONS = ("Add", "Clip", "Relu", "GlobalAveragePool", "AveragePool", "MaxPool")
"""Quantized too in convolutional networks: Clip and Relu so that the range of a convolution is taken behind them, where
it is narrow; Add and pools so that a block stays in int8. In a transformer the sums carry a few very large values, and
the products of activations with activations (attention) little work: there only products with weights are quantized."""


def prepared(model: Path, place: Path) -> onnx.ModelProto:
    """The graph folded, with the shape of every tensor known: what the quantizers want. Also written to `place`."""
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(model, place, skip_symbolic_shape=True)
    found: onnx.ModelProto = load_model_with_shape_infer(place)
    return found


def kinds(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The operators to quantize: more of them where convolutions do most of the work."""
    nodes = [n.op_type for n in graph.node if not n.name.startswith(PREPROCESSING)]
    convolutional = nodes.count("Conv") > nodes.count("MatMul") + nodes.count("Gemm")
    return PRODUCTS + AROUND_CONVOLUTIONS if convolutional else PRODUCTS


def activations(graph: onnx.GraphProto, excluded: Collection[str]) -> list[str]:
    """The tensors whose ranges are needed: what the nodes that will be quantized read and write."""
    constants, chosen = {i.name for i in graph.initializer}, kinds(graph)
    nodes = [n for n in graph.node if n.op_type in chosen and n.name not in excluded]
    return [name for n in nodes for name in (*n.input, *n.output) if name and name not in constants]


def sums_with_constants(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that add a constant to what another node makes."""
    constants = {i.name for i in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "Add" and constants & set(n.input)]


def is_symmetric(dialect: str) -> bool:
    return dialect == "tensorrt"


def write(
    model: onnx.ModelProto, ranges: Ranges, excluded: Collection[str], dialect: str, per_channel: bool = True
) -> onnx.ModelProto:
    """A copy of `model`, which `prepared` gave, with Q/DQ around all nodes of its `kinds` but those in `excluded`."""
    import numpy as np
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ends = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        copy,
        per_channel=per_channel,
        reduce_range=dialect == "x86",
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if dialect in ("arm", "tensorrt") else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ends),
        nodes_to_quantize=[],
        nodes_to_exclude=[*excluded, *(sums_with_constants(model.graph) if dialect == "tensorrt" else ())],
        op_types_to_quantize=list(kinds(model.graph)),
        extra_options={
            "ActivationSymmetric": is_symmetric(dialect),
            "WeightSymmetric": True,
            "QuantizeBias": dialect != "tensorrt",
            "DedicatedQDQPair": dialect == "tensorrt",
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    return made
