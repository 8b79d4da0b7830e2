"""Layers of a quantized graph as products of rows: of a convolution, a row is what its kernel covers at one position.

Groups of channels are products of their own, G of them: rows [G, P, K], weights [G, K, O], outputs [G, P, O].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.optimize._graph import Wiring, attribute, has_weight
from tlcompile.optimize._rounding import Samples

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Wanted:
    """What a layer makes of one feed in fp32, at some positions: `index` [P] among all, of shape `positions`."""

    positions: tuple[int, ...]
    index: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Layer:
    """A product with a weight of its own. `node` is that of the fp32 graph, and so is `weight`."""

    node: onnx.NodeProto
    weight: np.ndarray
    step: np.ndarray  # of the shape of `weight`
    bias: np.ndarray  # [G, O]
    ends: tuple[float, float]  # of the activation behind it
    codes: str  # the constant of the quantized graph
    source: str  # the tensor of the quantized graph that it reads, in whole numbers where it is quantized
    scale: np.ndarray  # of `source`, and its zero point
    zero: np.ndarray

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def output(self) -> str:
        return str(self.node.output[0])

    @property
    def convolution(self) -> bool:
        return bool(self.node.op_type == "Conv")

    @property
    def groups(self) -> int:
        return attribute(self.node, "group", 1)

    def grouped(self, value: np.ndarray) -> np.ndarray:
        """What has the shape of the weight, as [G, K, O]."""
        if self.convolution:
            rows = value.reshape(self.groups, len(value) // self.groups, -1)
            return np.ascontiguousarray(rows.swapaxes(1, 2))
        return np.ascontiguousarray((value.T if attribute(self.node, "transB", 0) else value)[None])

    def as_stored(self, value: np.ndarray) -> np.ndarray:
        """[G, K, O], turned back."""
        turned = self.convolution or attribute(self.node, "transB", 0)
        rows: np.ndarray = (value.swapaxes(1, 2) if turned else value).reshape(self.weight.shape)
        return rows

    def wanted(self, output: np.ndarray, most: int, rng: np.random.Generator) -> Wanted:
        """`output` of the fp32 layer at `most` random positions."""
        value = np.moveaxis(output, 1, -1) if self.convolution else output
        rows = value.reshape(-1, value.shape[-1])
        index = np.sort(rng.choice(len(rows), min(most, len(rows)), replace=False))
        outputs = rows[index].reshape(len(index), self.groups, -1).swapaxes(0, 1)
        return Wanted(value.shape[:-1], index, np.ascontiguousarray(outputs.clip(*self.ends)))

    def samples(self, source: np.ndarray, wanted: Wanted) -> Samples:
        """`source` is the value of that tensor in the feed that `wanted` is of."""
        x = (source.astype(np.float32) - self.zero.astype(np.float32)) * self.scale
        if self.convolution:
            rows = self._covered(x, np.unravel_index(wanted.index, wanted.positions))
        else:
            rows = x.reshape(1, -1, x.shape[-1])[:, wanted.index]
        return Samples(rows, wanted.outputs, self.bias, self.ends)

    def _covered(self, x: np.ndarray, places: tuple[np.ndarray, ...]) -> np.ndarray:
        """[G, P, K] of the input `x` [N, C, …]; `places`: index of the example, and of each dimension, all [P]."""
        kernel = self.weight.shape[2:]
        dims = len(kernel)
        pads, strides, dilations = (
            _numbers(self.node, name) or [value] * count
            for name, value, count in (("pads", 0, 2 * dims), ("strides", 1, dims), ("dilations", 1, dims))
        )
        x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)])
        taps = np.indices(kernel).reshape(dims, -1)
        at = [places[i + 1][:, None] * strides[i] + taps[i] * dilations[i] for i in range(dims)]
        rows = x[(places[0][:, None], slice(None), *at)].swapaxes(1, 2)  # [P, C, taps]
        return np.ascontiguousarray(rows.reshape(len(rows), self.groups, -1).swapaxes(0, 1))


def layers(model: onnx.ModelProto, quantized: onnx.ModelProto) -> Iterator[Layer]:
    """The layers of `quantized`, in its order, with a weight that is theirs alone: symmetric codes among the constants.

    `model` is the fp32 graph that it was made of. Convolutions with automatic padding, and products with a factor, are
    left out.
    """
    fp32, wiring = Wiring(model.graph), Wiring(quantized.graph)
    origins = {node.name: node for node in model.graph.node if has_weight(fp32, node) and _is_plain(fp32, node)}
    for twin in quantized.graph.node:
        node = origins.get(twin.name)
        weight = wiring.makers.get(twin.input[1]) if node is not None else None
        if node is None or weight is None or weight.op_type != "DequantizeLinear":
            continue
        codes = weight.input[0]
        shared = any(wiring.only_user(name) is None for name in (codes, weight.output[0]))
        if shared or codes not in wiring.constants:
            continue
        value, maker = fp32.value(node.input[1]), wiring.makers.get(twin.input[0])
        source, scale, zero = twin.input[0], np.ones((), np.float32), np.zeros((), np.float32)
        if maker is not None and maker.op_type == "DequantizeLinear":
            source, scale, zero = maker.input[0], *(wiring.value(name) for name in maker.input[1:3])
        step = _step(wiring, weight, value.shape)
        yield Layer(node, value, step, _bias(fp32, node), _ends(fp32, node), codes, source, scale, zero)


def _is_plain(wiring: Wiring, node: onnx.NodeProto) -> bool:
    padding = next((a.s for a in node.attribute if a.name == "auto_pad"), b"NOTSET")
    factors = [a.f for a in node.attribute if a.name in ("alpha", "beta")]
    bias = node.input[2] if len(node.input) > 2 else ""
    known = not bias or bias in wiring.constants
    flat = node.op_type == "Conv" or wiring.value(node.input[1]).ndim == 2
    return known and flat and padding == b"NOTSET" and set(factors) <= {1.0} and not attribute(node, "transA", 0)


def _bias(wiring: Wiring, node: onnx.NodeProto) -> np.ndarray:
    """[G, O]; zeros where the sum with the bias is a node of its own."""
    weight, groups = wiring.value(node.input[1]), attribute(node, "group", 1)
    first = node.op_type == "Conv" or attribute(node, "transB", 0)
    bias = np.zeros(weight.shape[0 if first else 1], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = bias + wiring.value(node.input[2]).reshape(-1)
    return bias.reshape(groups, -1)


def _ends(wiring: Wiring, node: onnx.NodeProto) -> tuple[float, float]:
    """The range that a Relu or Clip behind the layer leaves of its output."""
    user, low, high = wiring.only_user(node.output[0]), -np.inf, np.inf
    if user is not None and user.op_type == "Relu":
        low = 0.0
    elif user is not None and user.op_type == "Clip":
        names = [*user.input[1:], "", ""][:2]
        low, high = (
            float(wiring.value(name)) if name in wiring.constants else end
            for name, end in zip(names, (low, high), strict=True)
        )
    return low, high


def _step(wiring: Wiring, node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    """The scale of each weight behind a DequantizeLinear: one of all, of each channel, or of each block."""
    scale, axis, block = wiring.value(node.input[1]), attribute(node, "axis", 1), attribute(node, "block_size", 0)
    if block:
        return np.repeat(scale, block, axis)
    if scale.ndim:
        scale = scale.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    return np.broadcast_to(scale, shape)


def _numbers(node: onnx.NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [])
