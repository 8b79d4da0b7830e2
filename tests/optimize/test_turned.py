"""fp16 graphs with torch's own attention open in ONNX Runtime on a CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tlcompile.artifacts import Feed
from tlcompile.optimize import Context, half
from tlcompile.parity import run_graph


def turned(path: Path, perm: list[int]) -> tuple[Feed, np.ndarray]:
    """Write a Transpose and a product with a matrix, as torch's own attention begins; a feed and the answer to it."""
    rng, sides = np.random.default_rng(0), [*(3, 5, 7)[: len(perm) - 1], 8]
    x = rng.normal(size=[sides[perm.index(axis)] for axis in range(len(perm))]).astype(np.float32)
    weights = rng.normal(size=(8, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=perm),
            helper.make_node("MatMul", ["t", "w"], ["logits"], name="product"),
        ],
        "turned",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*sides[:-1], 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return {"x": x}, x.transpose(perm) @ weights


@pytest.mark.parametrize(
    ("perm", "kept"),
    [([1, 0, 2], True), ([1, 2, 0], True), ([1, 2, 0, 3], True), ([1, 2, 3, 0], True), ([0, 2, 1], False)],
)
def test_a_turned_tensor_before_a_product_does_not_crash_onnx_runtime(
    tmp_path: Path, perm: list[int], kept: bool
) -> None:
    feed, expected = turned(tmp_path / "m.onnx", perm)
    model = tmp_path / "h.onnx"
    half.apply(tmp_path / "m.onnx", half.Options(), Context("", lambda: iter([feed])), model)
    code = f"import onnxruntime; onnxruntime.InferenceSession({str(model)!r}, providers=['CPUExecutionProvider'])"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    made = onnx.shape_inference.infer_shapes(onnx.load(model), strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in made.value_info}
    assert types["t"] == (TensorProto.FLOAT if kept else TensorProto.FLOAT16)
    assert types[next(n.output[0] for n in made.node if n.op_type == "MatMul")] == TensorProto.FLOAT16
    assert np.abs(run_graph(model, [feed])[0]["logits"] - expected).max() < 3e-2
