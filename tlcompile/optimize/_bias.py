"""Bias correction: what quantization adds to a layer's output on average is taken off its bias.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, in
its empirical form (appendix D). There each layer is fed by the quantized layers before it; here by the fp32 network,
whose mean inputs those layers have once they are corrected, so one run over the examples serves all layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tlcompile.optimize._graph import Wiring
from tlcompile.optimize._layers import Error

if TYPE_CHECKING:
    import onnx


def correct(model: onnx.ModelProto, errors: dict[str, Error]) -> int:
    """Change the biases of the fp32 `model`, in place; how many were. A product that has none is left as it is."""
    wiring, changed = Wiring(model.graph), 0
    for node in model.graph.node:
        place = bias_of(wiring, node) if node.name in errors else None
        if place is None:
            continue
        owner, index = place
        error = errors[node.name].mean.astype(np.float32)
        has = len(owner.input) > index and owner.input[index]
        old = wiring.value(owner.input[index]) if has else np.zeros_like(error)
        wiring.put(owner, index, (old - error).astype(np.float32))
        changed += 1
    return changed


def bias_of(wiring: Wiring, node: onnx.NodeProto) -> tuple[onnx.NodeProto, int] | None:
    """The node and the place among its inputs where the bias of the product `node` is, or could be; else None."""
    if node.op_type in ("Conv", "Gemm"):
        has = len(node.input) > 2 and node.input[2]
        return (node, 2) if not has or node.input[2] in wiring.constants else None
    added = wiring.only_user(node.output[0])
    if added is None or added.op_type != "Add":
        return None
    index = 1 if added.input[0] == node.output[0] else 0
    name = added.input[index]
    return (added, index) if name in wiring.constants and wiring.value(name).ndim == 1 else None
