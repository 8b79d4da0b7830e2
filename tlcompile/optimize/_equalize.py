"""Cross-layer equalization: channels of a convolution get ranges alike, and the next convolution makes up for it.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1:
output channel i of the first is divided by s_i = sqrt(r1_i / r2_i), input channel i of the second multiplied by it; r1
and r2 are the largest absolute weights of that channel. Between them may stand nothing, a ReLU, or a Clip from 0 (the
ReLU6 of mobile networks). A Clip does not scale, so a channel that reaches its upper end on the examples stays as it
is, and no other is scaled beyond it; nothing is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import Feed
from tlcompile.optimize._graph import Wiring, attribute, has_weight
from tlcompile.optimize._observe import observe

if TYPE_CHECKING:
    import onnx

SWEEPS = 8  # a depthwise convolution is the second of one pair and the first of the next
ROOM = 0.8  # a channel that comes nearer to the end of a Clip than this share of it counts as reaching it
STRONGEST = 1e3  # no channel is scaled by more


@dataclass
class Pair:
    """Two convolutions in a row; `limit` is the upper end of a Clip between them, else infinite."""

    first: onnx.NodeProto
    second: onnx.NodeProto
    limit: float


def equalize(model: onnx.ModelProto, feeds: Iterable[Feed]) -> int:
    """Rewrite the weights of `model` in place; how many pairs were found."""
    wiring = Wiring(model.graph)
    pairs = list(filter(None, (_pair(wiring, node) for node in model.graph.node)))
    clipped = {pair.first.output[0] for pair in pairs if np.isfinite(pair.limit)}
    peaks: dict[str, np.ndarray] = {}
    for values in observe(model, clipped, feeds) if clipped else ():
        for name, value in values.items():
            peak = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1).max(1)
            peaks[name] = np.maximum(peaks.get(name, 0.0), peak)
    for _ in range(SWEEPS):
        for pair in pairs:
            _balance(wiring, pair, peaks)
    return len(pairs)


def _pair(wiring: Wiring, first: onnx.NodeProto) -> Pair | None:
    """The pair that `first` begins, where there is one whose weights are nobody else's."""
    if first.op_type != "Conv" or not _own_weight(wiring, first):
        return None
    if len(first.input) > 2 and first.input[2] and first.input[2] not in wiring.constants:
        return None
    user, limit = wiring.only_user(first.output[0]), float("inf")
    if user is not None and user.op_type in ("Relu", "Clip"):
        ends = [float(wiring.value(n)) if n in wiring.constants else None for n in (*user.input[1:], "", "")[:2]]
        if user.op_type == "Clip":
            if ends[0] != 0 or ends[1] is None:
                return None
            limit = ends[1]
        user = wiring.only_user(user.output[0])
    if user is None or user.op_type != "Conv" or not _own_weight(wiring, user) or not _is_plain(wiring, user):
        return None
    return Pair(first, user, limit)


def _own_weight(wiring: Wiring, node: onnx.NodeProto) -> bool:
    return has_weight(wiring, node) and len(wiring.users[node.input[1]]) == 1


def _is_plain(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """One group, or depthwise with one filter a channel."""
    groups, shape = attribute(node, "group", 1), wiring.value(node.input[1]).shape
    return groups == 1 or (shape[1] == 1 and shape[0] == groups)


def _balance(wiring: Wiring, pair: Pair, peaks: dict[str, np.ndarray]) -> None:
    first, second = (wiring.value(node.input[1]) for node in (pair.first, pair.second))
    depthwise = attribute(pair.second, "group", 1) > 1
    incoming = second if depthwise else second.swapaxes(0, 1)
    r1, r2 = (np.abs(w).reshape(len(w), -1).max(1) for w in (first, incoming))
    usable = (r1 > 0) & (r2 > 0)
    s = np.where(usable, np.sqrt(r1 / np.where(usable, r2, 1)), 1).clip(1 / STRONGEST, STRONGEST)
    if np.isfinite(pair.limit):
        peak = peaks[pair.first.output[0]]
        free = peak < ROOM * pair.limit
        s = np.where(free, np.maximum(s, peak / (ROOM * pair.limit)), 1)
        peaks[pair.first.output[0]] = peak / s
    s = s.astype(np.float32)
    wiring.put(pair.first, 1, first / s.reshape(-1, *[1] * (first.ndim - 1)))
    if len(pair.first.input) > 2 and pair.first.input[2]:
        wiring.put(pair.first, 2, wiring.value(pair.first.input[2]) / s)
    shape = (-1, *[1] * (second.ndim - 1)) if depthwise else (1, -1, *[1] * (second.ndim - 2))
    wiring.put(pair.second, 1, second * s.reshape(shape))
