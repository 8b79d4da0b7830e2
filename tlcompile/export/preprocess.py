"""Resize, centre crop and normalise as ONNX nodes: uint8 [N, H, W, 3] of any size -> float32 [N, 3, S, S].

The antialiased resize is two MatMuls with interpolation matrices that nodes compute from the input's shape. This is
what Pillow's resample does (Resample.c: kernel widened by the scale, rows normalised, horizontal pass first, rounded
and clipped to 0..255 after each pass), and it gives the same pixels in every runtime, where ONNX `Resize` with
antialias is ignored by some and refused by others. The centre crop is cut out of the matrices, so pixels that would be
cropped away are never computed. Sizes and offsets follow torchvision's Resize (short side) and CenterCrop.
One grey level from Pillow at most; two in hardly any pixel, where both passes round a half to the other side. With one
exception: Pillow 13 turns the order of the passes round when it shrinks an image more than twice as tall as wide, which
shows where the first pass overshoots and is clipped (noise, hard edges).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile.artifacts import ImageSpec

if TYPE_CHECKING:
    import onnx

PREFIX = "preprocess/"


@dataclass
class _Builder:
    """Collects nodes and constants; every method returns the name of its result."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{PREFIX}{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"{PREFIX}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def real(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def whole(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))


def _resized(b: _Builder, short: str, this: str, spec: ImageSpec) -> str:
    """int64 [1]: length of a side after the resize, `int(resize_to * side / short)` as torchvision truncates it."""
    return b("Div", b("Mul", b.whole(spec.resize_to), this), short)


def _kernel(b: _Builder, x: str, interpolation: str) -> str:
    """Weights at distances `x` >= 0 (in units of the kernel): Pillow's triangle, or its bicubic with a = -0.5."""
    one, zero = b.real(1), b.real(0)
    if interpolation == "bilinear":
        return b("Max", b("Sub", one, x), zero)
    x2 = b("Mul", x, x)
    x3 = b("Mul", x2, x)
    near = b("Add", b("Sub", b("Mul", b.real(1.5), x3), b("Mul", b.real(2.5), x2)), one)
    tail = b("Add", b("Sub", b("Mul", b.real(2.5), x2), b("Mul", b.real(0.5), x3)), b.real(2))
    far = b("Sub", tail, b("Mul", b.real(4), x))
    outer = b("Where", b("Less", x, b.real(2)), far, zero)
    return b("Where", b("Less", x, one), near, outer)


def _matrix(b: _Builder, side: str, resized: str, spec: ImageSpec) -> str:
    """float32 [S, side]: row i mixes the source pixels of output pixel i, after resize and centre crop."""
    size = spec.image_size
    source = b("Cast", side, to=1)
    target = b("Cast", resized, to=1)
    scale = b("Div", source, target)
    widening = b("Max", scale, b.real(1))
    margin = b("Sub", target, b.real(size))
    offset = b("Round", b("Mul", margin, b.real(0.5)))  # half to even, as Python's round in torchvision
    rows = b.constant(np.arange(size, dtype=np.float32)[:, None] + np.float32(0.5))
    centers = b("Mul", b("Add", rows, offset), scale)  # [S, 1]
    scalar = b("Squeeze", side, b.whole(0))
    zero, one = b.constant(np.array(0, np.int64)), b.constant(np.array(1, np.int64))
    columns = b("Add", b("Cast", b("Range", zero, scalar, one), to=1), b.real(0.5))  # [side]
    weights = _kernel(b, b("Abs", b("Div", b("Sub", columns, centers), widening)), spec.interpolation)
    total = b("ReduceSum", weights, b.whole(1), keepdims=1)
    return b("Div", weights, total)


def _to_levels(b: _Builder, x: str) -> str:
    """Rounded and clipped to the 256 grey levels, as Pillow stores each pass."""
    return b("Clip", b("Floor", b("Add", x, b.real(0.5))), b.real(0), b.real(255))


def graph(spec: ImageSpec, opset: int) -> onnx.ModelProto:
    """The model `image` -> `pixels`."""
    from onnx import TensorProto, helper

    b = _Builder()
    shape = b("Shape", "image")
    height = b("Slice", shape, b.whole(1), b.whole(2))
    width = b("Slice", shape, b.whole(2), b.whole(3))
    short = b("Min", height, width)
    across = _matrix(b, width, _resized(b, short, width, spec), spec)
    down = _matrix(b, height, _resized(b, short, height, spec), spec)
    planes = b("Transpose", b("Cast", "image", to=1), perm=[0, 3, 1, 2])  # TensorRT transposes no uint8
    narrow = _to_levels(b, b("MatMul", planes, b("Transpose", across, perm=[1, 0])))
    levels = _to_levels(b, b("MatMul", down, narrow))
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (spec.mean, spec.std))
    scaled = b("Mul", levels, b.constant(1 / (255 * std)))
    b.nodes.append(helper.make_node("Add", [scaled, b.constant(-mean / std)], ["pixels"], name=f"{PREFIX}normalize"))
    size = spec.image_size
    return helper.make_model(
        helper.make_graph(
            b.nodes,
            "preprocess",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])],
            b.constants,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
