"""How much quantizing one layer moves its output, layer by layer, each fed what the fp32 network feeds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import Feed
from tlcompile.optimize._graph import Wiring, has_weight
from tlcompile.optimize._observe import observe

if TYPE_CHECKING:
    import onnx


@dataclass
class Error:
    """What int8 adds to one layer's output: its mean of each channel [C], and its mean square over the signal's."""

    mean: np.ndarray
    relative: float


def errors(fp32: onnx.ModelProto, int8: onnx.ModelProto, feeds: Iterable[Feed]) -> dict[str, Error]:
    """Name of each quantized product with a weight -> its error over all positions of all `feeds`."""
    both, pairs = _side_by_side(fp32, int8)
    convolutions = {node.name for node in fp32.graph.node if node.op_type == "Conv"}
    sums: dict[str, list[np.ndarray]] = {}
    for values in observe(both, [name for pair in pairs.values() for name in pair], feeds):
        for node, (exact, rounded) in pairs.items():
            signal, made = (_by_channel(values[name], node in convolutions) for name in (exact, rounded))
            gap = made - signal
            found = [gap.sum(0), np.array(len(gap)), (gap**2).sum(), (signal**2).sum()]
            sums[node] = [a + b for a, b in zip(sums[node], found, strict=True)] if node in sums else found
    return {n: Error(total / count, float(gap / max(signal, 1e-30))) for n, (total, count, gap, signal) in sums.items()}


def _by_channel(value: np.ndarray, convolution: bool) -> np.ndarray:
    """[positions, channels] of a convolution's output [N, C, …] or of another product's [..., C]."""
    if convolution:
        value = np.moveaxis(value, 1, -1)
    return value.reshape(-1, value.shape[-1]).astype(np.float64)


def _side_by_side(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, tuple[str, str]]]:
    """fp32 with a quantized twin beside each layer, and layer -> (its output, its twin's)."""
    import onnx
    from onnx import helper, numpy_helper

    both = onnx.ModelProto()
    both.CopyFrom(fp32)
    wiring, quantized = Wiring(both.graph), Wiring(int8.graph)
    pairs = {}
    for node, source, (scale, zero), weight in _quantized(wiring, quantized):
        twin, prefix = onnx.NodeProto(), f"{node.name}/int8/"
        twin.CopyFrom(node)
        names = [prefix + end for end in ("scale", "zero", "weight", "codes", "input", "output")]
        constants = (quantized.value(scale), quantized.value(zero), weight)
        both.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(constants, names, strict=False))
        twin.name = f"{node.name}/int8"
        twin.input[0], twin.input[1], twin.output[0] = names[4], names[2], names[5]
        both.graph.node.append(helper.make_node("QuantizeLinear", [source, *names[:2]], [names[3]], name=names[3]))
        both.graph.node.append(helper.make_node("DequantizeLinear", [names[3], *names[:2]], [names[4]], name=names[4]))
        both.graph.node.append(twin)
        pairs[node.name] = (node.output[0], names[5])
    return both, pairs


def _quantized(fp32: Wiring, int8: Wiring) -> Iterator[tuple[onnx.NodeProto, str, list[str], np.ndarray]]:
    """Layers of `fp32` that `int8` quantizes: node, its input, (scale, zero point) of that, its weight in steps."""
    twins = {node.name: node for node in int8.graph.node}
    for node in list(fp32.graph.node):
        twin = twins.get(node.name)
        if twin is None or not has_weight(fp32, node):
            continue
        source, weight = (int8.makers.get(name) for name in twin.input[:2])
        if source is None or weight is None or {source.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        yield node, node.input[0], list(source.input[1:3]), dequantized(int8, weight)


def dequantized(wiring: Wiring, node: onnx.NodeProto) -> np.ndarray:
    """The fp32 value of a DequantizeLinear of constants, per tensor or per channel."""
    codes, scale = (wiring.value(name) for name in node.input[:2])
    zero = wiring.value(node.input[2]) if len(node.input) > 2 else np.zeros_like(scale, codes.dtype)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if scale.ndim:
        shape = [1] * codes.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    value: np.ndarray = (codes.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale
    return value
