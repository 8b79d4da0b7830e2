"""Faults to plant in an ONNX graph of any precision, one function each: (graph, place) -> whether it could be planted.

`place` counts the weights, the nodes or the quantized tensors from the input on; a fault that the graph has no place
for (no zero point in fp32) is not planted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

PREFIX = "preprocess/"
PRODUCTS = ("Conv", "MatMul", "Gemm")
BYPASSED = ("Relu", "Clip", "Sigmoid", "HardSwish", "Erf", "Tanh", "Add")


def constants(graph: onnx.GraphProto) -> dict[str, Any]:
    return {i.name: i for i in graph.initializer}


def value(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor).copy()


def put(tensor: Any, array: np.ndarray) -> None:
    from onnx import numpy_helper

    kept = value(tensor)
    if kept.dtype.kind in "iu":
        array = np.clip(array, np.iinfo(kept.dtype).min, np.iinfo(kept.dtype).max)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).astype(kept.dtype), tensor.name))


def weights(graph: onnx.GraphProto) -> list[tuple[Any, Any, int]]:
    """(node, constant, axis of its output channels) of every product with weights, quantized or not, in order."""
    known = constants(graph)
    behind = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in known}
    found = []
    for node in graph.node:
        if node.op_type in PRODUCTS and not node.name.startswith(PREFIX):
            name = behind.get(node.input[1], node.input[1])
            if name in known:
                turned = any(a.name == "transB" and a.i for a in node.attribute)
                found.append((node, known[name], 0 if node.op_type == "Conv" or turned else len(known[name].dims) - 1))
    return found


def quantized(graph: onnx.GraphProto) -> list[tuple[Any, Any, Any]]:
    """(QuantizeLinear, its scale, its zero point) of every quantized activation."""
    known = constants(graph)
    nodes = [n for n in graph.node if n.op_type == "QuantizeLinear" and len(n.input) == 3]
    return [(n, known[n.input[1]], known[n.input[2]]) for n in nodes if n.input[1] in known and n.input[2] in known]


def at(items: list[Any], place: float) -> Any:
    """The item at a share 0..1 of the way."""
    return items[min(int(place * len(items)), len(items) - 1)] if items else None


def _weight(change: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[Any, float], bool]:
    """A fault that changes one weight; `change` gets it with its output channels first."""

    def plant(graph: Any, place: float) -> bool:
        if not (found := at(weights(graph), place)):
            return False
        _, tensor, axis = found
        turned = np.moveaxis(value(tensor), axis, 0).copy()
        put(tensor, np.moveaxis(change(turned.astype(np.float64), turned.dtype.kind == "i"), 0, axis))
        return True

    return plant


def _strongest(weight: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-np.abs(weight.reshape(len(weight), -1)).sum(1), kind="stable")[:count]


def _scaled(weight: np.ndarray, whole: bool) -> np.ndarray:
    return weight * 0.8


def _zeroed(weight: np.ndarray, whole: bool) -> np.ndarray:
    weight[_strongest(weight, 1)] = 0
    return weight


def _one_element(weight: np.ndarray, whole: bool) -> np.ndarray:
    """The weakest number of the strongest channel becomes the largest one of the tensor, or ten times that in fp."""
    row = weight[_strongest(weight, 1)[0]].reshape(-1)  # a view
    row[np.abs(row).argmin()] = np.abs(weight).max() * (1 if whole else 10)
    return weight


def _swapped(weight: np.ndarray, whole: bool) -> np.ndarray:
    first, second = _strongest(weight, 2) if len(weight) > 1 else (0, 0)
    weight[[first, second]] = weight[[second, first]]
    return weight


def dropped_bias(graph: Any, place: float) -> bool:
    known = constants(graph)
    behind = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in known}
    biased = [n for n, _, _ in weights(graph) if len(n.input) > 2 and behind.get(n.input[2], n.input[2]) in known]
    if not (node := at(biased, place)):
        return False
    tensor = known[behind.get(node.input[2], node.input[2])]
    put(tensor, value(tensor) * 0)
    return True


def dropped_node(graph: Any, place: float) -> bool:
    """A node that keeps its shape is gone; who read it reads its first input that a node makes."""
    made = {name for node in graph.node for name in node.output}
    outputs = {o.name for o in graph.output}
    nodes = [
        n
        for n in graph.node
        if n.op_type in BYPASSED
        and not n.name.startswith(PREFIX)
        and n.output[0] not in outputs
        and sum(i in made for i in n.input) == (2 if n.op_type == "Add" else 1)
    ]
    if not (node := at(nodes, place)):
        return False
    source = next(i for i in node.input if i in made)
    for other in graph.node:
        other.input[:] = [source if name == node.output[0] else name for name in other.input]
    graph.node.remove(node)
    return True


def moved_padding(graph: Any, place: float) -> bool:
    """A convolution looks one pixel beside."""
    padded = [a for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "pads" and any(a.ints)]
    if not (pads := at(padded, place)):
        return False
    top, left, bottom, right = pads.ints
    pads.ints[:] = [top + bottom, left, 0, right] if top != top + bottom else [0, left, top + bottom, right]
    return True


def swapped_scales(graph: Any, place: float) -> bool:
    """The scales of two activations."""
    found = quantized(graph)
    if len(found) < 2:
        return False
    _, first, _ = at(found, place)
    others = [s for _, s, _ in found if s.name != first.name and np.abs(np.log2(value(s) / value(first))).max() > 1]
    if not (second := at(others, 1 - place)):
        return False
    a, b = value(first), value(second)
    put(first, b.reshape(a.shape))
    put(second, a.reshape(b.shape))
    return True


def narrow_scale(graph: Any, place: float) -> bool:
    """Of one activation, where it is quantized and where it is read: three quarters of its range are clipped."""
    if not (found := at(quantized(graph), place)):
        return False
    put(found[1], value(found[1]) / 4)
    return True


def wrong_zero_point(graph: Any, place: float) -> bool:
    """What quantizes has another zero point than what reads it."""
    if not (found := at(quantized(graph), place)):
        return False
    node, _, zero = found
    other = graph.initializer.add()
    other.CopyFrom(zero)
    other.name = f"{zero.name}/wrong"
    put(other, value(zero).astype(np.int64) + (64 if int(value(zero).max()) < 64 else -64))
    node.input[2] = other.name
    return True


def _normalize(which: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any, float], bool]:
    def plant(graph: Any, place: float) -> bool:
        known, made = constants(graph), {name: node for node in graph.node for name in node.output}
        last = next((n for n in graph.node if n.name == f"{PREFIX}normalize"), None)
        if last is None:
            return False
        node = last if which == "mean" else next(made[i] for i in last.input if i in made)
        name = next((i for i in node.input if i in known), None)
        if name is None:
            return False
        put(known[name], change(value(known[name])))
        return True

    return plant


def moved_resize(graph: Any, place: float) -> bool:
    """Pixels begin at their corner instead of their middle: half a pixel aside."""
    for tensor in graph.initializer:
        array = value(tensor)
        if array.ndim == 2 and array.shape[1] == 1 and len(array) > 8 and np.allclose(array[:3, 0], (0.5, 1.5, 2.5)):
            put(tensor, array - 0.5)
            return True
    return False


def swapped_colours(graph: Any, place: float) -> bool:
    """Blue for red in the first convolution."""
    for _, tensor, _ in weights(graph):
        if len(tensor.dims) == 4 and tensor.dims[1] == 3:
            put(tensor, value(tensor)[:, ::-1])
            return True
    return False


EVERYWHERE: dict[str, Callable[[Any, float], bool]] = {
    "a tensor scaled by 0.8": _weight(_scaled),
    "a channel zeroed": _weight(_zeroed),
    "one element set badly": _weight(_one_element),
    "two channels swapped": _weight(_swapped),
    "a bias dropped": dropped_bias,
    "a node dropped": dropped_node,
    "padding moved": moved_padding,
    "two scales swapped": swapped_scales,
    "a scale divided by 4": narrow_scale,
    "a wrong zero point": wrong_zero_point,
}
"""Planted at several places."""
ONCE: dict[str, Callable[[Any, float], bool]] = {
    "a wrong mean": _normalize("mean", lambda v: v + 0.1),
    "a wrong std": _normalize("std", lambda v: v * 1.1),
    "the resize half a pixel aside": moved_resize,
    "red and blue swapped": swapped_colours,
}
RANGES = ("two scales swapped", "a scale divided by 4")
"""Lawful int8 with poor ranges: a fault where they move the answers by more than int8 does with good ones."""
