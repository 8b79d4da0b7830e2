"""Two small networks with what makes int8 hard: channels of very different sizes, and a few very large activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from tlcompile.artifacts import Feed, Graph, ImageSpec, Signature, Tensor, TextSpec, write_json
from tlcompile.runtime import golden

CLASSES = ("a", "b", "c", "d")
_OUT = (Tensor("logits", "float32", ("batch", 4)), Tensor("probabilities", "float32", ("batch", 4)))
_IN = {
    "mobile": (Tensor("pixels", "float32", ("batch", 3, 8, 8)), ImageSpec(8)),
    "encoder": (Tensor("tokens", "float32", ("batch", "length", 16)), TextSpec(32)),
}

MOBILE = """
<ir_version: 10, opset_import: ["" : 18]>
mobile (float[batch,3,8,8] pixels) => (float[batch,4] logits, float[batch,4] probabilities) {
  scaled = Mul (pixels, unit)
  c1 = Conv (scaled, w1, b1)
  r1 = Clip (c1, zero, six)
  c2 = Conv <group = 16, pads = [1, 1, 1, 1]> (r1, w2, b2)
  r2 = Clip (c2, zero, six)
  c3 = Conv (r2, w3, b3)
  pooled = GlobalAveragePool (c3)
  flat = Flatten (pooled)
  logits = Gemm <transB = 1> (flat, w4, b4)
  probabilities = Softmax <axis = -1> (logits)
}
"""

ENCODER = """
<ir_version: 10, opset_import: ["" : 18]>
encoder (float[batch,length,16] tokens) => (float[batch,4] logits, float[batch,4] probabilities) {
  n1 = LayerNormalization <axis = -1> (tokens, g1, h1)
  m1 = MatMul (n1, w1)
  a1 = Add (m1, b1)
  t1 = Tanh (a1)
  sum = Add (tokens, t1)
  n2 = LayerNormalization <axis = -1> (sum, g2, h2)
  m2 = MatMul (n2, w2)
  a2 = Add (m2, b2)
  rest = Add (n2, a2)
  m3 = MatMul (rest, w3)
  a3 = Add (b3, m3)
  pooled = ReduceMean <keepdims = 0> (a3, middle)
  logits = MatMul (pooled, w4)
  probabilities = Softmax <axis = -1> (logits)
}
"""


def mobile(folder: Path, uneven: float = 30.0) -> Graph:
    """Convolutions in a row, one depthwise, with ReLU6 between; channels of the first differ up to `uneven` times."""
    rng = np.random.default_rng(3)
    spread = np.geomspace(1 / uneven, 1, 16)
    weights = {
        "unit": np.float32(1),
        "zero": np.float32(0),
        "six": np.float32(6),
        "w1": rng.normal(0, 0.5, (16, 3, 1, 1)) * spread[:, None, None, None],
        "b1": rng.normal(0.3, 0.1, 16) * spread,
        "w2": rng.normal(0.1, 0.3, (16, 1, 3, 3)),
        "b2": rng.normal(0, 0.1, 16) * spread,
        "w3": rng.normal(0, 0.5, (8, 16, 1, 1)) / spread[None, :, None, None],
        "b3": rng.normal(0, 0.1, 8),
        "w4": rng.normal(0, 1, (4, 8)) / uneven**0.5,
        "b4": rng.normal(0, 0.1, 4),
    }
    return _save(folder, "mobile", MOBILE, weights, image_feeds())


def encoder(folder: Path, outlier: float = 40.0) -> Graph:
    """Products behind layer norms, one of which a residual sum reads too; one channel is `outlier` times larger."""
    rng = np.random.default_rng(4)
    large = np.ones(16)
    large[5] = outlier
    weights = {
        **{f"g{i}": rng.normal(1, 0.1, 16) * large for i in (1, 2)},
        **{f"h{i}": rng.normal(0, 0.1, 16) for i in (1, 2)},
        **{f"w{i}": rng.normal(0, 0.2, (16, 16)) / large[:, None] for i in (1, 2)},
        **{f"b{i}": rng.normal(0, 0.1, 16) for i in (1, 2, 3)},
        "w3": rng.normal(0, 0.2, (16, 16)) / large[:, None],
        "w4": rng.normal(0, 1, (16, 4)),
        "middle": np.array([1]),
    }
    return _save(folder, "encoder", ENCODER, weights, text_feeds())


def image_feeds() -> list[Feed]:
    rng = np.random.default_rng(5)
    return [{"pixels": rng.normal(0.5, 1, (4, 3, 8, 8)).astype(np.float32)} for _ in range(8)]


def text_feeds() -> list[Feed]:
    rng = np.random.default_rng(6)
    return [{"tokens": rng.normal(0, 1, (1, n, 16)).astype(np.float32)} for n in (5, 9, 12, 20, 7, 8, 15, 11, 6, 10)]


def _save(folder: Path, name: str, text: str, weights: dict[str, np.ndarray], feeds: list[Feed]) -> Graph:
    from tlcompile import parity

    model = parser.parse_model(text)
    for key, value in weights.items():
        kind = np.int64 if key == "middle" else np.float32
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value).astype(kind), key))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    tensor, spec = _IN[name]
    task = "image-classification" if name == "mobile" else "text-classification"
    write_json(folder / "signature.json", Signature(task, (tensor,), _OUT, CLASSES, spec).to_json())
    write_json(folder / "parity.json", [{"rung": "export"}])
    golden.save(folder / "golden.npz", feeds[:2], parity.run_graph(folder / "model.onnx", feeds[:2]))
    return Graph(folder, "")
