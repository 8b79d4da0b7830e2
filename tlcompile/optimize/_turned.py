"""Transposes that ONNX Runtime crashes on where they are in half, on an x86 CPU (seen in 1.31; reported of 1.24 on).

They bring the first axis next to the last, and a product with a matrix follows, as in torch's own attention. ORT's
MatmulTransposeFusion puts the cast to fp32, which its CPU kernel of the product needs, in front of the Transpose, fuses
nothing after all, and leaves a node without a schema, which NchwcTransformer reads (microsoft/onnxruntime issue 28392).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def turned(graph: onnx.GraphProto) -> set[str]:
    """What these Transposes make."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    multiplied = {node.input[0] for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices}
    turning = (node for node in graph.node if node.op_type == "Transpose" and _first_to_last(node))
    return {node.output[0] for node in turning} & multiplied


def _first_to_last(node: onnx.NodeProto) -> bool:
    perm = [axis for attribute in node.attribute for axis in attribute.ints]
    return len(perm) > 2 and perm[:-2] == list(range(1, len(perm) - 1))
