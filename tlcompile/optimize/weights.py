"""Weights in four, two or one bits, activations in fp32: a smaller file, and less memory to read for large products.

    int4      [K, N] weights of products in blocks of K, as DequantizeLinear (opset 21), which ONNX Runtime fuses into
              its 4-bit product and OpenVINO reads. For transformers; convolutions stay in fp32. Rounded to the
              nearest step, or `adaptive`ly (`_adaptive`)
    ternary   -a, 0 or a for each output channel: F. Li et al., "Ternary Weight Networks", 2016, section 2.2: zero
              below 0.7 times the mean absolute weight, a the mean of the others
    binary    -a or a: M. Rastegari et al., "XNOR-Net", ECCV 2016, section 3.1: a the mean absolute weight

Ternary and binary codes are packed into bytes that a few nodes unpack: the file is small, the memory that of fp32. The
first and the last layer stay as they are, as XNOR-Net does it. Without training with such weights accuracy is mostly
lost: this is an experiment in size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from tlcompile.errors import Problem, TlcompileError
from tlcompile.optimize import Context
from tlcompile.optimize._exclude import named
from tlcompile.optimize._graph import Wiring, attribute, has_weight
from tlcompile.optimize._told import told
from tlcompile.options import Field, NameList
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    import onnx

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
WHERE = "optimize.weights"
OPSET = 21  # the first with int4
BITS = {"ternary": 2, "binary": 1}


class Options(Base):
    scheme: Literal["int4", "ternary", "binary"] = "int4"
    block_size: Literal[16, 32, 64, 128] = Field(32, description="weights of int4 that share a scale")
    rounding: Literal["nearest", "adaptive"] = Field(
        "nearest", description="of int4: to the nearest step, or up or down as the layer's output asks (AdaRound)"
    )
    rounding_steps: int = Field(500, ge=1, description="steps of the search for each layer's adaptive rounding")
    exclude: NameList = Field((), description="nodes that stay in fp32, by name or pattern ('*' any text, '[0-9]')")
    min_agreement: float | None = Field(
        None, ge=0, le=1, description="least share of golden examples that keep their label; int4: 0.8, else 0"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.rounding == "adaptive" and self.scheme != "int4":
            raise ValueError(f"rounding is read with scheme = 'int4', which is '{self.scheme}'")
        if self.rounding_steps != type(self).model_fields["rounding_steps"].default and self.rounding != "adaptive":
            raise ValueError("rounding_steps is read with rounding = 'adaptive'")
        return self


def variant(options: Options) -> str:
    return options.scheme


def refused(options: Options, backend: str) -> str:
    """Why `backend` can't run this variant; ''."""
    if backend in ("onnxruntime", "openvino"):
        return ""
    if options.scheme == "int4" and backend in ("tensorrt", "tensorrt_rtx"):
        return ""
    return f"{backend} does not take {options.scheme} weights"


def held(options: Options) -> bool:
    """Whether each node must come out near what it was: with one bit a weight none does."""
    return options.scheme == "int4"


def tolerance(options: Options) -> Tolerance:
    default = 0.8 if options.scheme == "int4" else 0.0
    return Tolerance(max_abs=1.0, agreement=default if options.min_agreement is None else options.min_agreement)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx

    from tlcompile.optimize import _adaptive

    with told(WHERE, f"given {options.scheme} weights"):
        loaded = onnx.load(model)
        excluded = named(loaded.graph, options.exclude, WHERE)
        if options.scheme == "int4" and _opset(loaded) < OPSET:
            loaded = onnx.version_converter.convert_version(loaded, OPSET)
        wiring = Wiring(loaded.graph)
        layers = [n for n in loaded.graph.node if has_weight(wiring, n)]
        layers = _blockable(wiring, layers, options.block_size) if options.scheme == "int4" else layers[1:-1]
        layers = [n for n in layers if n.name not in excluded]
        if not layers:
            blocks = f"MatMul with a weight of a multiple of {options.block_size} rows"
            what = blocks if options.scheme == "int4" else "layer between the first and the last"
            reason = f"nothing is left for {options.scheme} weights: the graph has no {what}"
            raise TlcompileError(Problem(WHERE, reason))
        fp32 = onnx.ModelProto()
        fp32.CopyFrom(loaded)
        for node in layers:
            _replace(wiring, node, options)
        if options.rounding == "adaptive":
            _adaptive.put_codes(loaded, _adaptive.adapted(fp32, loaded, context.calibration(), options.rounding_steps))
        onnx.checker.check_model(loaded)
        onnx.save(loaded, target)


def _opset(model: onnx.ModelProto) -> int:
    return int(next(i.version for i in model.opset_import if i.domain in ("", "ai.onnx")))


def _blockable(wiring: Wiring, layers: list[onnx.NodeProto], size: int) -> list[onnx.NodeProto]:
    """OpenVINO takes whole blocks only."""
    shapes = [wiring.value(n.input[1]).shape if n.op_type == "MatMul" else () for n in layers]
    return [n for n, shape in zip(layers, shapes, strict=True) if len(shape) == 2 and shape[0] % size == 0]


def _replace(wiring: Wiring, node: onnx.NodeProto, options: Options) -> None:
    """Nodes that make the weight of `node` out of a few bits, in its place."""
    weight, prefix = wiring.value(node.input[1]), f"{node.name}/{options.scheme}"
    if options.scheme == "int4":
        nodes, constants = _blocks(weight, options.block_size, prefix)
    else:
        axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else weight.ndim - 1
        codes, scale = (ternary if options.scheme == "ternary" else binary)(weight, axis)
        nodes, constants = _packed(codes, scale, BITS[options.scheme], prefix)
    wiring.graph.initializer.extend(constants)
    for made in nodes:
        wiring.insert_before(node, made)
    wiring.read_instead(node, 1, nodes[-1].output[0])


def ternary(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes 0, 1, 2 for -a, 0, a; a of each channel of `axis`, broadcastable)."""
    import numpy as np

    others = tuple(i for i in range(weight.ndim) if i != axis)
    size = np.abs(weight)
    large = size > 0.7 * size.mean(others, keepdims=True)
    scale = (size * large).sum(others, keepdims=True) / np.maximum(large.sum(others, keepdims=True), 1)
    return (np.sign(weight) * large + 1).astype(np.uint8), scale.astype(np.float32)


def binary(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes 0 and 1 for -a and a; a of each channel of `axis`, broadcastable)."""
    import numpy as np

    others = tuple(i for i in range(weight.ndim) if i != axis)
    return (weight >= 0).astype(np.uint8), np.abs(weight).mean(others, keepdims=True).astype(np.float32)


def _blocks(weight: np.ndarray, size: int, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """DequantizeLinear of [K, N] in blocks of `size` rows, symmetric."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = weight.shape
    blocks = weight.reshape(rows // size, size, columns)
    scale = np.maximum(np.abs(blocks).max(1) / 7, np.float32(1e-12)).astype(np.float32)
    codes = np.rint(blocks / scale[:, None]).clip(-8, 7).reshape(rows, columns).astype(np.int8)
    constants = [
        helper.make_tensor(f"{prefix}/codes", TensorProto.INT4, codes.shape, codes.reshape(-1).tolist()),
        numpy_helper.from_array(scale, f"{prefix}/scale"),
    ]
    names = [constant.name for constant in constants]
    node = helper.make_node("DequantizeLinear", names, [f"{prefix}/weight"], name=prefix, axis=0, block_size=size)
    return [node], constants


def _packed(
    codes: np.ndarray, scale: np.ndarray, bits: int, prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes that unpack `codes`, `bits` each, with plain integer arithmetic: (code - zero) · scale."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    each = 8 // bits
    steps = (1 << bits * np.arange(each)).astype(np.uint8)
    flat = np.pad(codes.reshape(-1), (0, -codes.size % each)).reshape(-1, each)
    values = {
        "packed": (flat * steps).sum(1, keepdims=True).astype(np.uint8),
        "steps": steps.astype(np.int32),
        "base": np.array(2**bits, np.int32),
        "length": np.array([codes.size], np.int64),
        "start": np.array([0], np.int64),
        "shape": np.array(codes.shape, np.int64),
        "zero": np.array(1.0 if bits == 2 else 0.5, np.float32),
        "scale": scale if bits == 2 else 2 * scale,
    }
    chain: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["packed"], "bytes", {"to": TensorProto.INT32}),
        ("Div", ["bytes", "steps"], "shifted", {}),
        ("Mod", ["shifted", "base"], "table", {}),
        ("Reshape", ["table", "flat_shape"], "padded", {}),
        ("Slice", ["padded", "start", "length"], "codes", {}),
        ("Reshape", ["codes", "shape"], "shaped", {}),
        ("Cast", ["shaped"], "real", {"to": TensorProto.FLOAT}),
        ("Sub", ["real", "zero"], "centred", {}),
        ("Mul", ["centred", "scale"], "weight", {}),
    ]
    values["flat_shape"] = np.array([-1], np.int64)
    nodes = [
        helper.make_node(kind, [f"{prefix}/{n}" for n in names], [f"{prefix}/{out}"], name=f"{prefix}/{out}", **more)
        for kind, names, out, more in chain
    ]
    return nodes, [numpy_helper.from_array(value, f"{prefix}/{name}") for name, value in values.items()]
