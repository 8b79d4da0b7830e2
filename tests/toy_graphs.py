"""The smallest graphs that look like ours: raw uint8 images of any size in, a resize by MatMuls, a convolution, a Gemm.

Weights are random with a fixed seed. `quantized` makes the int8 Q/DQ twin with ONNX Runtime's quantizer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from tlcompile import registry
from tlcompile.artifacts import Graph, ImageSpec, Signature, Tensor, TextSpec, write_json
from tlcompile.fingerprint import tree_digest
from tlcompile.options import Options

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed

CLASSES = ("ant", "bee", "cat", "dog")
_FEW = (1, 1, 2)  # examples of one call, fewer than the suite's feeds have
_OPTIONS: dict[str, dict[str, Any]] = {
    "tensorrt": {"batch": _FEW},
    "tensorrt_rtx": {"batch": _FEW, "compute_capability": ("sm86",)},
}
SIDE = 16  # pixels after the resize

_IMAGE = """
<ir_version: 10, opset_import: ["" : 18]>
toy (uint8[batch,height,width,3] image) => (float[batch,4] logits, float[batch,4] probabilities) {
  shape = Shape (image)
  height_1 = Slice (shape, one, two)
  width_1 = Slice (shape, two, three)
  height_s = Squeeze (height_1)
  width_s = Squeeze (width_1)
  height_f = Cast <to = 1> (height_s)
  width_f = Cast <to = 1> (width_s)
  rows = Range (zero_i, height_s, one_i)
  columns = Range (zero_i, width_s, one_i)
  rows_f = Cast <to = 1> (rows)
  columns_f = Cast <to = 1> (columns)
  scale_y = Div (height_f, side)
  scale_x = Div (width_f, side)
  centre_y = Mul (grid, scale_y)
  centre_x = Mul (grid, scale_x)
  from_y = Sub (rows_f, centre_y)
  from_x = Sub (columns_f, centre_x)
  far_y = Abs (from_y)
  far_x = Abs (from_x)
  part_y = Div (far_y, scale_y)
  part_x = Div (far_x, scale_x)
  less_y = Neg (part_y)
  less_x = Neg (part_x)
  near_y = Exp (less_y)
  near_x = Exp (less_x)
  sum_y = ReduceSum (near_y, last)
  sum_x = ReduceSum (near_x, last)
  matrix_y = Div (near_y, sum_y)
  matrix_x = Div (near_x, sum_x)
  turned_x = Transpose <perm = [1, 0]> (matrix_x)
  colours = Cast <to = 1> (image)
  pixels = Transpose <perm = [0, 3, 1, 2]> (colours)
  low = MatMul (matrix_y, pixels)
  small = MatMul (low, turned_x)
  centred = Sub (small, mean)
  scaled = Mul (centred, factor)
  conv = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (scaled, conv_w, conv_b)
  relu = Relu (conv)
  pooled = GlobalAveragePool (relu)
  flat = Flatten (pooled)
  logits = Gemm <transB = 1> (flat, gemm_w, gemm_b)
  probabilities = Softmax <axis = -1> (logits)
}
"""

_TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
toy (int64[batch,tokens] input_ids, int64[batch,tokens] attention_mask)
  => (float[batch,4] logits, float[batch,4] probabilities) {
  embedded = Gather (table, input_ids)
  mask = Cast <to = 1> (attention_mask)
  mask_3 = Unsqueeze (mask, last)
  kept = Mul (embedded, mask_3)
  total = ReduceSum <keepdims = 0> (kept, one)
  count = ReduceSum (mask, one)
  average = Div (total, count)
  logits = Gemm <transB = 1> (average, gemm_w, gemm_b)
  probabilities = Softmax <axis = -1> (logits)
}
"""
_OUTPUTS = tuple(Tensor(name, "float32", ("batch", len(CLASSES))) for name in ("logits", "probabilities"))
IMAGE = Signature(
    "image-classification",
    (Tensor("image", "uint8", ("batch", "height", "width", 3), "NHWC RGB 0..255"),),
    _OUTPUTS,
    CLASSES,
    ImageSpec(SIDE),
)
TEXT = Signature(
    "text-classification",
    tuple(Tensor(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask")),
    _OUTPUTS,
    CLASSES,
    TextSpec(64),
)


def _save(text: str, weights: dict[str, np.ndarray], signature: Signature, folder: Path) -> Graph:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    write_json(folder / "signature.json", signature.to_json())
    return Graph(folder, tree_digest(folder))


def image_graph(folder: Path, channels: int = 32) -> Graph:
    rng = np.random.default_rng(7)

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    indices = {name: np.array([v], np.int64) for name, v in {"one": 1, "two": 2, "three": 3, "last": -1}.items()}
    weights = {
        **indices,
        "zero_i": np.array(0, np.int64),
        "one_i": np.array(1, np.int64),
        "side": np.array(SIDE, np.float32),
        "grid": np.arange(SIDE, dtype=np.float32).reshape(SIDE, 1),
        "mean": np.array(127.5, np.float32),
        "factor": np.array(1 / 127.5, np.float32),
        "conv_w": normal(channels, 3, 3, 3, scale=0.3),
        "conv_b": normal(channels, scale=0.1),
        "gemm_w": normal(4, channels, scale=1.0),
        "gemm_b": normal(4, scale=0.1),
    }
    return _save(_IMAGE, weights, IMAGE, folder)


def text_graph(folder: Path) -> Graph:
    rng = np.random.default_rng(7)
    weights = {
        "last": np.array([-1], np.int64),
        "one": np.array([1], np.int64),
        "table": rng.standard_normal((50, 16)).astype(np.float32),
        "gemm_w": rng.standard_normal((4, 16)).astype(np.float32),
        "gemm_b": rng.standard_normal(4).astype(np.float32),
    }
    graph = _save(_TEXT, weights, TEXT, folder)
    (folder / "tokenizer.json").write_text("{}")
    return replace(graph, digest=tree_digest(folder))


def options_of(backend: str) -> Options:
    """The options that a backend is tested with: its defaults, but `_FEW`, and one capability as each costs a build."""
    return registry.load("compile", backend).Options(**_OPTIONS.get(backend, {}))


def images(batch: int, height: int = 24, width: int = 20, seed: int = 0) -> Feed:
    rng = np.random.default_rng(seed)
    return {"image": rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)}


def texts(batch: int, tokens: int = 7) -> Feed:
    ids = np.random.default_rng(0).integers(0, 50, (batch, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def quantized(graph: Graph, folder: Path, dialect: str) -> Graph:
    """Static int8 Q/DQ of the convolution and the Gemm, in the dialect that a backend asks for."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([images(4, seed=seed) for seed in range(4)])

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    signed = dialect in ("arm", "tensorrt")
    folder.mkdir(parents=True, exist_ok=True)
    quantize_static(
        str(graph.model),
        str(folder / "model.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm"],
        per_channel=True,
        reduce_range=dialect == "x86",
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": dialect == "tensorrt",
            "WeightSymmetric": True,
            "QuantizeBias": dialect != "tensorrt",
        },
    )
    write_json(folder / "signature.json", graph.signature.to_json())
    return Graph(folder, tree_digest(folder))


def chain(path: Path, scale: float) -> None:
    """logits = x * scale, then / scale, then + 1: the middle may be beyond the largest half."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "logits"))
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["large"], name="up"),
        helper.make_node("Div", ["large", "scale"], ["small"], name="down"),
        helper.make_node("Add", ["small", "one"], ["logits"], name="add"),
    ]
    constants = [numpy_helper.from_array(np.float32(v), n) for n, v in (("scale", scale), ("one", 1))]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.save(model, path)
