"""The part of a graph in front of its network, computed by numpy on the device: what a fixed-size runtime can't take.

Mobile runtimes want fixed shapes. Images come in any size; the nodes that resize and normalise them are written to
`before.json` and `before.npz` as the graph has them, and are computed here node by node. So the pixels are those of the
graph, whatever passes did to it, and an image of any size is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile.artifacts import read_json, write_json

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed

_NODES, _CONSTANTS = "before.json", "before.npz"


def _slice(x: np.ndarray, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> np.ndarray:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(int(start), int(end), int(step))
    return x[tuple(cut)]


def _div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whole numbers are truncated towards zero, as ONNX says."""
    return np.asarray(x / y) if np.issubdtype(x.dtype, np.floating) else (np.sign(x) * np.sign(y)) * (abs(x) // abs(y))


def _clip(x: np.ndarray, low: Any = None, high: Any = None) -> np.ndarray:
    return x if low is None and high is None else np.clip(x, low, high)


def _axes(axes: Any) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(axis) for axis in np.atleast_1d(axes))


def _folded(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Of two or more operands, as ONNX's Min and Max."""

    def fold(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
        for other in others:
            first = function(first, other)
        return first

    return fold


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "Cast": lambda x, to: x.astype(to),
    "Clip": _clip,
    "Concat": lambda *x, axis: np.concatenate(x, axis),
    "Div": _div,
    "Exp": np.exp,
    "Floor": np.floor,
    "Gather": lambda x, indices, axis=0: np.take(x, indices, axis),
    "Identity": lambda x: x,
    "Less": np.less,
    "MatMul": np.matmul,
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Range": lambda start, end, step: np.arange(start, end, step, dtype=start.dtype),
    "ReduceSum": lambda x, axes=None, keepdims=1: np.sum(x, axis=_axes(axes), keepdims=bool(keepdims), dtype=x.dtype),
    "Round": np.round,
    "Shape": lambda x: np.array(x.shape, np.int64),
    "Slice": _slice,
    "Squeeze": lambda x, axes=None: np.squeeze(x, _axes(axes)),
    "Sub": np.subtract,
    "Transpose": lambda x, perm: np.ascontiguousarray(np.transpose(x, perm)),  # else MatMul walks it by strides, slowly
    "Unsqueeze": lambda x, axes: np.expand_dims(x, _axes(axes) or ()),
    "Where": np.where,
}
"""ONNX's operators of preprocessing, by name: positional inputs, attributes by name; `to` of Cast as a numpy name."""


class Program:
    """`run` gives the tensors called `outputs` out of a feed."""

    def __init__(self, nodes: list[dict[str, Any]], constants: Feed, outputs: list[str]) -> None:
        self.nodes, self.constants, self.outputs = nodes, constants, outputs

    def run(self, feed: Feed) -> Feed:
        known: dict[str, Any] = {**self.constants, **feed, "": None}
        for node in self.nodes:
            known[node["output"]] = OPERATORS[node["op"]](*(known[name] for name in node["inputs"]), **node["with"])
        return {name: known[name] for name in self.outputs}

    def save(self, folder: Path) -> None:
        names = list(self.constants)
        write_json(folder / _NODES, {"nodes": self.nodes, "constants": names, "outputs": self.outputs})
        np.savez(
            folder / _CONSTANTS,
            allow_pickle=False,
            **{str(index): self.constants[name] for index, name in enumerate(names)},
        )

    @classmethod
    def load(cls, folder: Path) -> Program:
        """The program in `folder`; ValueError or OSError where it is damaged."""
        written = read_json(folder / _NODES)
        with np.load(folder / _CONSTANTS, allow_pickle=False) as arrays:
            constants = {name: arrays[str(index)] for index, name in enumerate(written["constants"])}
        return cls(written["nodes"], constants, written["outputs"])
