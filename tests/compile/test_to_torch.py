"""Each operator that is turned into a torch function, alone, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser

from tlcompile.compile._to_torch import module
from tlcompile.compile._torch_operators import UnknownOperator

X = "float[2,6,9,7]"
WIDE = {"X": X, "M": "float[4,6]", "B": "bool[5,3]", "I": "int64[2,3]"}
CONSTANTS: dict[str, np.ndarray] = {
    "w": np.random.default_rng(1).standard_normal((4, 3, 3, 2)).astype(np.float32),
    "b": np.random.default_rng(2).standard_normal(4).astype(np.float32),
    "k": np.random.default_rng(3).standard_normal((6, 5)).astype(np.float32),
    "kt": np.random.default_rng(4).standard_normal((5, 6)).astype(np.float32),
    "five": np.random.default_rng(5).standard_normal(5).astype(np.float32),
    "seven": np.random.default_rng(6).standard_normal(7).astype(np.float32),
    "six": np.random.default_rng(7).uniform(0.5, 2, 6).astype(np.float32),
    "table": np.random.default_rng(8).standard_normal((5, 3)).astype(np.float32),
    "low": np.array(-0.5, np.float32),
    "high": np.array(0.8, np.float32),
    "axis2": np.array([2], np.int64),
    "axes": np.array([-1, 2], np.int64),
    "starts": np.array([1, -4], np.int64),
    "ends": np.array([100, -1], np.int64),
    "steps": np.array([2, 1], np.int64),
    "sizes": np.array([1, 5], np.int64),
    "shape": np.array([0, -1, 7], np.int64),
    "pads": np.array([0, 1, 0, 2, 0, 0, 3, 1], np.int64),
    "ids": np.array([[1, 0], [3, 2]], np.int64),
    "four": np.array([4, 0, 1], np.int64),
    "scale": np.array(0.05, np.float32),
    "zero": np.array(3, np.int8),
    "wq": np.random.default_rng(9).integers(-128, 127, (6, 5)).astype(np.int8),
    "scales": np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32),
    "zeros": np.zeros(5, np.int8),
}
CASES = {
    "convolution padded unevenly": "y = Conv <group = 2, pads = [1, 0, 2, 1], strides = [2, 1]> (X, w, b)",
    "dilated convolution": "y = Conv <group = 2, dilations = [2, 3]> (X, w)",
    "max pooling rounded up": "y = MaxPool <kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1> (X)",
    "max pooling padded unevenly": "y = MaxPool <kernel_shape = [3, 3], pads = [0, 1, 1, 0]> (X)",
    "average pooling without its padding": "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (X)",
    "average pooling with its padding":
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (X)",
    "Gemm": "y = Gemm <alpha = 0.5, beta = 2.0> (M, k, five)",
    "Gemm of turned weights": "y = Gemm <transB = 1> (M, kt, five)",
    "MatMul with constant weights": "y = MatMul (M, k)",
    "Slice": "y = Slice (X, starts, ends, axes, steps)",
    "Split": "a, y = Split <axis = 1> (X, sizes)",
    "Pad": "y = Pad (X, pads, high)",
    "Reshape": "y = Reshape (X, shape)",
    "Flatten": "y = Flatten <axis = 2> (X)",
    "Clip": "y = Clip (X, low, high)",
    "Clip from below": "y = Clip (X, low)",
    "Gather on axis 1": "y = Gather <axis = 1> (X, ids)",
    "Gather of a table": "y = Gather (table, I)",
    "Gather of booleans": "g = Gather (B, four) y = Cast <to = 1> (g)",
    "LayerNormalization": "y = LayerNormalization <axis = -1, epsilon = 0.001> (X, seven)",
    "InstanceNormalization": "y = InstanceNormalization (X, six, six)",
    "BatchNormalization": "y = BatchNormalization <epsilon = 0.01> (X, six, six, six, six)",
    "GlobalAveragePool": "y = GlobalAveragePool (X)",
    "ReduceMean": "y = ReduceMean <keepdims = 0> (X, axes)",
    "ReduceSum of all": "y = ReduceSum (X)",
    "ReduceL2": "y = ReduceL2 (X, axis2)",
    "ReduceMax": "y = ReduceMax (X, axes)",
    "HardSigmoid": "y = HardSigmoid <alpha = 0.3> (X)",
    "HardSwish": "y = HardSwish (X)",
    "LeakyRelu": "y = LeakyRelu <alpha = 0.2> (X)",
    "Elu": "y = Elu (X)",
    "Gelu": "y = Gelu <approximate = \"tanh\"> (X)",
    "Softmax on axis 1": "y = Softmax <axis = 1> (X)",
    "Squeeze and Unsqueeze": "u = Unsqueeze (X, axes) y = Squeeze (u, axes)",
    "Where": "c = Less (X, low) y = Where (c, high, X)",
    "Div of whole numbers": "n = Neg (I) q = Div (n, axis2) y = Cast <to = 1> (q)",
    "Trilu": "y = Trilu <upper = 0> (X)",
    "QuantizeLinear": "q = QuantizeLinear (X, scale, zero) y = DequantizeLinear (q, scale, zero)",
    "weights quantized per channel":
        "k2 = DequantizeLinear <axis = 1> (wq, scales, zeros) y = MatMul (M, k2)",
}  # fmt: skip


def network(body: str, folder: Path) -> Path:
    """A graph of `body`, whose answer is `y`, with the inputs and constants that it names."""
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    inputs = ", ".join(f"{kind} {name}" for name, kind in WIDE.items() if name in words)
    head = f'<ir_version: 10, opset_import: ["" : 20]> one ({inputs}) => (float[] y)'
    model = parser.parse_model(f"{head} {{ {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    kept = [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items() if name in words]
    model.graph.initializer.extend(kept)
    onnx.save(model, folder / "one.onnx")
    return folder / "one.onnx"


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_an_operator_means_the_same_in_torch(body: str, tmp_path: Path) -> None:
    file, rng = network(body, tmp_path), np.random.default_rng(0)
    values = {
        "X": rng.standard_normal((2, 6, 9, 7)).astype(np.float32),
        "M": rng.standard_normal((4, 6)).astype(np.float32),
        "B": rng.random((5, 3)) < 0.5,
        "I": rng.integers(0, 5, (2, 3)),
    }
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # no int8 kernels
    session = onnxruntime.InferenceSession(str(file), settings)
    feed = {value.name: values[value.name] for value in session.get_inputs()}
    expected = np.asarray(session.run(["y"], feed)[0])
    with torch.inference_mode():
        (found,) = module(file)(*(torch.from_numpy(value) for value in feed.values()))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("y = Selu (X)", "no torch function is known for the operator Selu"),
        ("s = Shape (X) y = Reshape (X, s)", "operator Shape"),
        ('y = Conv <group = 2, auto_pad = "SAME_UPPER"> (X, w)', "auto_pad = SAME_UPPER"),
        ('y = Pad <mode = "reflect"> (X, pads)', "of another mode than constant"),
    ],
)
def test_what_is_not_known_is_told_by_name(body: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownOperator, match=told), torch.inference_mode():
        module(network(body, tmp_path))(torch.zeros(2, 6, 9, 7))
