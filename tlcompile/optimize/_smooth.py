"""SmoothQuant: difficulty is moved from activations, where a few channels are very large, into weights.

G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023,
equation 4: channel j of a product's input is divided by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), row j of its
weight multiplied by it. The network computes the same. Products that share an input share s.

Where the input is a LayerNormalization that only these products read, its scale and bias take the division. Elsewhere
(a norm that the residual sum reads too, as in BERT; GELU) a Mul is added before the quantizer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import Feed
from tlcompile.optimize._graph import Wiring, attribute, has_weight
from tlcompile.optimize._observe import observe

if TYPE_CHECKING:
    import onnx

SMALLEST = 1e-5


def smooth(model: onnx.ModelProto, alpha: float, excluded: Collection[str], feeds: Iterable[Feed]) -> int:
    """Rewrite `model` in place; how many inputs of products were smoothed."""
    wiring = Wiring(model.graph)
    groups: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        fits = node.op_type in ("MatMul", "Gemm") and has_weight(wiring, node) and not attribute(node, "transA", 0)
        if fits and node.name not in excluded and wiring.value(node.input[1]).ndim == 2:
            groups.setdefault(node.input[0], []).append(node)
    peaks: dict[str, np.ndarray] = {}
    for values in observe(model, groups, feeds):
        for name, value in values.items():
            peak = np.abs(value).reshape(-1, value.shape[-1]).max(0, initial=0.0)
            peaks[name] = np.maximum(peaks.get(name, 0.0), peak)
    for name, nodes in groups.items():
        _divide(wiring, name, nodes, _scales(wiring, nodes, peaks[name], alpha))
    return len(groups)


def _scales(wiring: Wiring, nodes: list[onnx.NodeProto], peaks: np.ndarray, alpha: float) -> np.ndarray:
    """s [K] for the products `nodes`, whose inputs reach `peaks` [K]; 1 where nothing ever comes."""
    weights = np.max([np.abs(_rows(wiring, node)).max(1) for node in nodes], axis=0)
    s = np.maximum(peaks, SMALLEST) ** alpha / np.maximum(weights, SMALLEST) ** (1 - alpha)
    kept: np.ndarray = np.where((peaks > SMALLEST) & (weights > SMALLEST), s, 1).astype(np.float32)
    return kept


def _rows(wiring: Wiring, node: onnx.NodeProto) -> np.ndarray:
    """The weight of a product, input channels first [K, N]."""
    weight = wiring.value(node.input[1])
    return weight.T if attribute(node, "transB", 0) else weight


def _divide(wiring: Wiring, name: str, nodes: list[onnx.NodeProto], s: np.ndarray) -> None:
    for node in nodes:
        scaled = _rows(wiring, node) * s[:, None]
        wiring.put(node, 1, np.ascontiguousarray(scaled.T if attribute(node, "transB", 0) else scaled))
    norm = wiring.makers.get(name)
    readers = {id(node) for node in wiring.users[name]}
    alone = readers == {id(node) for node in nodes} and name not in wiring.answers
    if norm is not None and alone and _is_affine(wiring, norm, len(s)):
        for index in range(1, len(norm.input)):
            wiring.put(norm, index, wiring.value(norm.input[index]) / s)
    else:
        _multiply(wiring, name, nodes, 1 / s)


def _is_affine(wiring: Wiring, node: onnx.NodeProto, width: int) -> bool:
    """Whether `node` is a layer norm over the last axis with constants of its own."""
    sizes = [wiring.value(name).shape for name in node.input[1:] if name in wiring.constants]
    return node.op_type == "LayerNormalization" and sizes == [(width,)] * (len(node.input) - 1)


def _multiply(wiring: Wiring, name: str, nodes: list[onnx.NodeProto], factor: np.ndarray) -> None:
    from onnx import helper, numpy_helper

    made, constant = f"{name}/smoothed", f"{name}/smoothing"
    wiring.graph.initializer.append(numpy_helper.from_array(factor.astype(np.float32), constant))
    product = helper.make_node("Mul", [name, constant], [made], name=made)
    wiring.insert_before(nodes[0], product)
    for node in nodes:
        wiring.read_instead(node, 0, made)
