"""ONNX's operators as torch functions: positional inputs, attributes by name. See `_to_torch`, which says which inputs
are numpy constants (axes, shapes, limits, scales)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch.nn import functional as f

_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
    11: torch.float64,
}  # fmt: skip


class UnknownOperator(ValueError):
    """The graph has an operator, or a use of one, that is not known here."""


def _whole(values: Any) -> list[int]:
    return [int(value) for value in values]


def _padded(x: Any, pads: Any, auto_pad: bytes, value: float) -> tuple[Any, list[int]]:
    """(x, symmetric padding of its spatial axes): what a torch layer can't pad itself is padded before it."""
    if auto_pad not in (b"NOTSET", b"VALID"):
        raise UnknownOperator(f"auto_pad = {auto_pad.decode()} is not known here")
    half = x.ndim - 2
    low, high = (list(pads[:half]), list(pads[half:])) if pads else ([0] * half, [0] * half)
    if low == high:
        return x, low
    flat = [size for pair in zip(reversed(low), reversed(high), strict=True) for size in pair]
    return f.pad(x, flat, value=value), [0] * half


def _conv(x: Any, w: Any, b: Any = None, **a: Any) -> Any:
    x, padding = _padded(x, a.get("pads"), a.get("auto_pad", b"NOTSET"), 0.0)
    ones = [1] * len(padding)
    kind = {1: f.conv1d, 2: f.conv2d, 3: f.conv3d}[len(padding)]
    return kind(x, w, b, a.get("strides", ones), padding, a.get("dilations", ones), a.get("group", 1))


def _max_pool(x: Any, kernel_shape: list[int], **a: Any) -> Any:
    x, padding = _padded(x, a.get("pads"), a.get("auto_pad", b"NOTSET"), float("-inf"))
    rounded_up = bool(a.get("ceil_mode", 0))
    return f.max_pool2d(x, kernel_shape, a.get("strides", 1), padding, a.get("dilations", 1), rounded_up)


def _average_pool(x: Any, kernel_shape: list[int], **a: Any) -> Any:
    x, padding = _padded(x, a.get("pads"), a.get("auto_pad", b"NOTSET"), 0.0)
    rounded_up, with_padding = bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    return f.avg_pool2d(x, kernel_shape, a.get("strides", 1), padding, rounded_up, with_padding)


def _gemm(a: Any, b: Any, c: Any = None, **with_: Any) -> Any:
    alpha, beta = with_.get("alpha", 1.0), with_.get("beta", 1.0)
    a = a.t() if with_.get("transA", 0) else a
    if alpha == beta == 1 and with_.get("transB", 0) and (c is None or c.ndim == 1):
        return f.linear(a, b, c)
    product = alpha * torch.matmul(a, b.t() if with_.get("transB", 0) else b)
    return product if c is None else product + beta * c


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        if axes is None and noop_with_empty_axes:
            return x
        return function(x, list(range(x.ndim)) if axes is None else _whole(axes), bool(keepdims))

    return reduce


def _sliced(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    for index, (start, end) in enumerate(zip(_whole(starts), _whole(ends), strict=True)):
        axis, step = int(index if axes is None else axes[index]), int(1 if steps is None else steps[index])
        if step < 1:
            raise UnknownOperator("a Slice that runs backwards is not known here")
        x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return x


def _squeezed(x: Any, axes: Any = None) -> Any:
    return x.squeeze() if axes is None else x.squeeze(tuple(_whole(axes)))


def _unsqueezed(x: Any, axes: Any) -> Any:
    full = x.ndim + len(axes)
    for axis in sorted(axis % full for axis in _whole(axes)):
        x = x.unsqueeze(axis)
    return x


def _reshaped(x: Any, shape: Any, allowzero: int = 0) -> Any:
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(_whole(shape))])


def _flat(x: Any, axis: int = 1) -> Any:
    return x.reshape(x.shape[:axis].numel(), -1)


def _gathered(x: Any, indices: Any, axis: int = 0) -> Any:
    axis %= x.ndim
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return f.embedding(indices, x)
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _split(x: Any, sizes: Any = None, axis: int = 0, num_outputs: int = 0) -> Any:
    parts = -(-x.shape[axis] // num_outputs) if sizes is None else _whole(sizes)
    return tuple(torch.split(x, parts, axis))


def _pad(x: Any, pads: Any, value: Any = None, axes: Any = None, mode: bytes = b"constant") -> Any:
    if axes is not None or mode != b"constant":
        raise UnknownOperator("a Pad with axes or of another mode than constant is not known here")
    half = len(pads) // 2
    flat = [int(pads[axis + side * half]) for axis in reversed(range(half)) for side in (0, 1)]
    return f.pad(x, flat, value=0.0 if value is None else float(value))


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    return torch.clamp(x, None if low is None else float(low), None if high is None else float(high))


def _layer_norm(x: Any, scale: Any, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> Any:
    return f.layer_norm(x, list(x.shape[axis:]), scale, bias, epsilon)


def _limits(dtype: Any) -> tuple[int, int, torch.dtype]:
    name = str(dtype).removeprefix("torch.")
    if name not in ("int8", "uint8"):
        raise UnknownOperator(f"quantized values of {name} are not known here")
    return (-128, 127, torch.int8) if name == "int8" else (0, 255, torch.uint8)


def _quantized(x: Any, scale: Any, zero: Any, axis: int = 1, **_: Any) -> Any:
    if scale.size != 1:
        raise UnknownOperator("activations quantized per channel are not known here")
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return quantize(x, float(scale.item()), int(zero.item()), *_limits(zero.dtype))


def _dequantized(x: Any, scale: Any, zero: Any, axis: int = 1, **_: Any) -> Any:
    """Scales per channel come as tensors, one scale as a number."""
    if isinstance(scale, torch.Tensor):
        per_channel = torch.ops.quantized_decomposed.dequantize_per_channel.default
        return per_channel(x, scale, zero, axis % x.ndim, *_limits(x.dtype))
    per_tensor = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    return per_tensor(x, float(scale.item()), int(zero.item()), *_limits(x.dtype))


def _folded(function: Callable[..., Any]) -> Callable[..., Any]:
    def fold(first: Any, *others: Any) -> Any:
        for other in others:
            first = function(first, other)
        return first

    return fold


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "AveragePool": _average_pool,
    "BatchNormalization": lambda x, w, b, m, v, epsilon=1e-5, **_: f.batch_norm(x, m, v, w, b, False, 0.0, epsilon),
    "Cast": lambda x, to, **_: x.to(_TYPES[to]),
    "Ceil": torch.ceil,
    "Clip": _clip,
    "Concat": lambda *x, axis: torch.cat(x, axis),
    "Conv": _conv,
    "Cos": torch.cos,
    "CumSum": lambda x, axis, **_: torch.cumsum(x, int(axis)),
    "DequantizeLinear": _dequantized,
    "Div": lambda x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc"),
    "Elu": lambda x, alpha=1.0: f.elu(x, alpha),
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": lambda x, shape: x * x.new_ones(_whole(shape)),
    "Flatten": _flat,
    "Floor": torch.floor,
    "Gather": _gathered,
    "GatherElements": lambda x, indices, axis=0: torch.gather(x, axis, indices),
    "Gelu": lambda x, approximate=b"none": f.gelu(x, approximate=approximate.decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(list(range(2, x.ndim)), keepdim=True),
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "GroupNormalization": lambda x, w, b, epsilon=1e-5, num_groups=1, **_: f.group_norm(x, num_groups, w, b, epsilon),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(x * alpha + beta, 0, 1),
    "HardSwish": f.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": lambda x, w, b, epsilon=1e-5: f.instance_norm(x, weight=w, bias=b, eps=epsilon),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, alpha=0.01: f.leaky_relu(x, alpha),
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Linear": f.linear,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Max": _folded(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _folded(torch.minimum),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pad": _pad,
    "Pow": torch.pow,
    "QuantizeLinear": _quantized,
    "Reciprocal": torch.reciprocal,
    "ReduceL2": _reduced(lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keepdim=keep))),
    "ReduceMax": _reduced(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: torch.sum(x, axes, keep)),
    "Relu": torch.relu,
    "Reshape": _reshaped,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Slice": _sliced,
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "Softplus": f.softplus,
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeezed,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Tile": lambda x, repeats: x.repeat(_whole(repeats)),
    "Transpose": lambda x, perm: x.permute(perm),
    "Trilu": lambda x, k=None, upper=1: (torch.triu if upper else torch.tril)(x, 0 if k is None else int(k)),
    "Unsqueeze": _unsqueezed,
    "Where": torch.where,
}
