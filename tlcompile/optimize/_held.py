"""What a change of precision did to each node: every constant and every node held against the graph before, by name.

Answers at the end of a network can't tell a fault from rounding: int8 moves them by more than a lost channel does. So

- a constant may differ from its original by what its own type rounds, no more;
- a node is given what the graph *before* computed in front of it, so that it is judged by itself, and its result may
  differ by a share of what the graph before has there.

Tensors that only one of the graphs has (fused, or newly between) are part of the stretch to the next one both have.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import Feed
from tlcompile.emulation import computable
from tlcompile.errors import ParityError, Problem

if TYPE_CHECKING:
    import onnx
    import onnxruntime

EXAMPLES = 4
STEPS = 1.01
"""Largest difference of a quantized constant in steps of its scale: rounding up or down, as the pass sees fit."""
SHARE_INT8, SHARE_BF16, SHARE_HALF = 0.25, 0.03, 0.01
"""Largest difference of a tensor as a share of its size. Sound ones reach 0.16, in bf16 0.005, in half 0.0016."""
TINY = 1e-4
ROUNDED = ("float32", "float16", "bfloat16")
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def check(rung: str, before: Path, after: Path, feeds: list[Feed], biases: bool = True) -> None:
    """ParityError that names `rung` and the worst constant or node of `after`, if one is not that of `before`.

    Without `biases`, constants of one dimension are judged by what their nodes make only: they were corrected.
    """
    import onnx

    old, new = onnx.load(before), onnx.load(after)
    if wrong := constants_moved(old, new, biases):
        name, found = wrong[0]
        raise ParityError(Problem(rung, f"the constant '{name}' is off by {found}, which is no rounding"))
    moved = nodes_moved(old, runs := computable(new), _few(feeds))
    in_int8 = any(node.op_type in ("DequantizeLinear", "MatMulInteger") for node in new.graph.node)
    allowed = SHARE_INT8 if in_int8 else SHARE_HALF if runs is new else SHARE_BF16
    worst = max(moved, key=moved.__getitem__, default="")
    if worst and not moved[worst] <= allowed:
        node = next(n for n in new.graph.node if worst in n.output)
        what = f"'{worst}' ({node.op_type} '{node.name}') is off by {moved[worst]:.1%} of its size"
        raise ParityError(
            Problem(rung, f"{what}, given what the graph before has in front of it (allowed {allowed:.0%})")
        )


def _few(feeds: list[Feed]) -> list[Feed]:
    """The first examples: all tensors of a run are held in memory at once."""
    return [{name: value[:EXAMPLES] for name, value in feed.items()} for feed in feeds[:1]]


def constants_moved(old: onnx.ModelProto, new: onnx.ModelProto, biases: bool = True) -> list[tuple[str, str]]:
    """(name, how far) of constants that differ from those they are named after by more than rounding, worst first.

    One of another shape was folded into something else: the nodes that read it are judged by what they make.
    """
    from onnx import numpy_helper

    originals = {i.name: numpy_helper.to_array(i) for i in old.graph.initializer if biases or len(i.dims) != 1}
    found = {i.name: numpy_helper.to_array(i) for i in new.graph.initializer}
    wrong = []
    for node in new.graph.node:
        if node.op_type == "DequantizeLinear" and (name := node.input[0].removesuffix("_quantized")) in originals:
            steps = _steps(originals[name], node, found)
            if not steps <= STEPS:
                wrong.append((steps, name, f"{steps:.3g} steps of its scale"))
    for name, value in found.items():
        original = originals.get(name.removesuffix("/half").removesuffix("/bf16"))
        if original is not None and original.dtype.kind == "f" and value.dtype.name in ROUNDED:
            share = _rounded(original, value)
            if not share <= 1:
                wrong.append((share, name, f"{share:.3g} times what {value.dtype} rounds"))
    return [(name, what) for _, name, what in sorted(wrong, reverse=True)]


def _steps(original: np.ndarray, node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> float:
    """Largest difference of a dequantized constant from its original, in steps of its scale."""
    whole, scale, *zero = (constants[name] for name in node.input)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if original.shape != whole.shape:
        return 0.0
    if scale.ndim == 1 and whole.ndim > 0:
        shape = [-1 if i == axis % whole.ndim else 1 for i in range(whole.ndim)]
        scale, zero = scale.reshape(shape), [z.reshape(shape) for z in zero]
    value = whole.astype(np.float64) - (zero[0].astype(np.float64) if zero else 0.0)
    return float((np.abs(value - original / scale.astype(np.float64))).max(initial=0.0))


def _rounded(original: np.ndarray, value: np.ndarray) -> float:
    """Largest difference of a constant in units of what its type rounds; numbers beyond its range count as its ends."""
    if original.shape != value.shape:
        return 0.0
    from ml_dtypes import finfo  # of numpy's types and of bf16

    info = finfo(value.dtype)
    wanted = original.astype(np.float64).clip(float(info.min), float(info.max))
    unit = np.maximum(np.abs(wanted) * float(info.eps), float(info.smallest_subnormal))
    same = np.isinf(original) & (original == value)
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.abs(value.astype(np.float64) - wanted) / unit).max(initial=0.0))


def nodes_moved(old: onnx.ModelProto, new: onnx.ModelProto, feeds: list[Feed]) -> dict[str, float]:
    """How far each tensor of `new` is from the one of `old` that it stands for, when all before it are as in `old`."""
    stands = _stand_for(old, new)
    before = _session(_exposed(old, sorted(set(stands.values()))))
    kept = {o.name for o in before.get_outputs() if o.type == "tensor(float)"}
    types = {o.name: o.type for o in _session(_exposed(new, list(stands))).get_outputs() if o.type in FLOATS}
    stands = {name: origin for name, origin in stands.items() if name in types and origin in kept}
    after = _session(_given(_exposed(new, list(stands)), {name: types[name] for name in stands}))
    wanted = {i.name for i in after.get_inputs()}
    origins, moved = sorted(set(stands.values())), dict.fromkeys(stands, 0.0)
    for feed in feeds:
        values = dict(zip(origins, before.run(origins, feed), strict=True))
        given = {f"{name}/given": _as(values[origin], FLOATS[types[name]]) for name, origin in stands.items()}
        results = after.run(list(stands), {k: v for k, v in {**feed, **given}.items() if k in wanted})
        for (name, origin), result in zip(stands.items(), results, strict=True):
            moved[name] = max(moved[name], distance(result, values[origin]))
    return moved


def _stand_for(old: onnx.ModelProto, new: onnx.ModelProto) -> dict[str, str]:
    """Tensor of `new` -> the tensor of `old` that it stands for: of the same name, or behind the Q/DQ of that one.

    Where a tensor is quantized, what comes in front may be beyond its range: a clip may live in the rounding. So a
    tensor that only a clip reads stands for nothing; what comes out of the clip does.
    """
    readers: dict[str, set[str]] = {}
    for node in old.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    known = {name for name in _made(old) if not readers.get(name, {""}) <= {"Clip", "Relu"}}
    made = {name: node for node in new.graph.node for name in node.output if name}
    found, quantized = {}, set()
    for name, node in made.items():
        inner = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if inner is not None and inner.op_type == "QuantizeLinear":
            quantized.add(inner.input[0])
            if (origin := inner.input[0].removesuffix("_QuantizeLinear_Input")) in known:
                found[name] = origin
    same = {name: name for name in made if name in known and name not in quantized and name not in found}
    return {name: origin for name, origin in {**found, **same}.items() if origin not in quantized or name in found}


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square difference in units of the root mean square of `expected`; NaN is infinite.

    What is smaller than TINY vanishes in half, and beside the tensors that it is added to.
    """
    lowest = np.finfo(np.float16).min
    a, b = found.astype(np.float64).clip(lowest), expected.astype(np.float64).clip(lowest)
    size = max(float(np.sqrt(np.mean(b**2))), TINY) if b.size else 1.0
    off = float(np.sqrt(np.mean((a - b) ** 2))) / size if b.size else 0.0
    return off if np.isfinite(off) else float("inf")


def _as(value: np.ndarray, kind: type) -> np.ndarray:
    if kind is np.float32:
        return value
    limit = float(np.finfo(np.float16).max)
    return np.where(np.isfinite(value), value.clip(-limit, limit), value).astype(np.float16)


def _made(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output if name]


def _exposed(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy whose outputs are the tensors `names`."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("output")
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def _given(model: onnx.ModelProto, types: dict[str, str]) -> onnx.ModelProto:
    """`model`, changed: whoever read a tensor of `types` reads the input `<name>/given` instead."""
    from onnx import TensorProto, helper

    kinds = {"tensor(float)": TensorProto.FLOAT, "tensor(float16)": TensorProto.FLOAT16}
    read = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in types:
                read.add(name)
                node.input[index] = f"{name}/given"
    model.graph.input.extend(
        helper.make_tensor_value_info(f"{name}/given", kinds[types[name]], None) for name in types if name in read
    )
    return model


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Computes every node as it is written."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
