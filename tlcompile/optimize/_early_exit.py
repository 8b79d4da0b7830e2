"""Budgeted inference: the first voice (a view, a member) alone where it is sure of its answer, all of them otherwise.

In the graph this is an ONNX `If`, whose branch holds the other voices. It is entered where any example of a batch is
not sure, so time is saved for single examples. What an example is answered does not depend on its neighbours in the
batch: a sure one keeps the answer of the first voice.

Floating-point weights that the branch reads lie in it, a second time where the first voice reads them too: ONNX Runtime
arranges weights for its kernels in their own graph only. With those outside the branch took 8.8 ms, with its own 5.1
(mobilenetv3_small_100 at 128 px, two views, one CPU core); in int8 there was no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tlcompile.confidence import confidence
from tlcompile.optimize import _views_mean as mean

if TYPE_CHECKING:
    from onnx import TensorProto

    from tlcompile.optimize._views_cut import Writer


class How(mean.How, Protocol):
    @property
    def exit_at(self) -> float | None: ...


def leave(
    first: str,
    every: Callable[[Writer], str],
    activation: mean.Activation,
    options: How,
    width: int,
    constants: Mapping[str, TensorProto],
    write: Writer,
) -> str:
    """What is averaged, [N, K], as `mean.combine` gives it: `first` where it is sure, elsewhere what `every` makes.

    `every` writes the other voices into the writer that it is given, which is that of the branch. `width` is K,
    `constants` are those of the graph by name. The logits of the first voice are the tensor FIRST_VOICE: of what the
    branch reads, it is all that the network made. Backends without branches get two engines, parted there.
    """
    from onnx import TensorProto, helper

    from tlcompile.optimize._views_cut import Writer as Inner

    certain = _certainty(first, activation, options, write)
    least = write.real(options.exit_at or 0.0)
    sure = write("GreaterOrEqual", certain, least)
    all_sure = write("GreaterOrEqual", write("ReduceMin", certain, keepdims=0), least)
    stay, rest = Inner(f"{write.prefix}stay/"), Inner(f"{write.prefix}rest/")
    kept = stay("Identity", first)
    mixed = rest("Where", sure, first, every(rest))
    write.constants.extend(rest.constants)
    branches = {}
    for name, part, value in (("then_branch", stay, kept), ("else_branch", rest, mixed)):
        answer = helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", width])
        branches[name] = helper.make_graph(part.nodes, name, [], [answer], _own(part, constants))
    return write("Reshape", write("If", all_sure, **branches), write.whole(-1, width))


def _own(part: Writer, constants: Mapping[str, TensorProto]) -> list[TensorProto]:
    """Copies of the weights that the nodes of `part` read, which read them from now on."""
    from onnx import TensorProto

    from tlcompile.optimize._views_cut import reads, renamed

    wanted = set().union(*(reads(node) for node in part.nodes)) & set(constants)
    kinds, copies, names = (TensorProto.FLOAT, TensorProto.FLOAT16), [], {}
    for tensor in (constants[name] for name in sorted(wanted)):
        if tensor.data_type in kinds and len(tensor.dims) > 1:
            copies.append(TensorProto())
            copies[-1].CopyFrom(tensor)
            names[tensor.name] = copies[-1].name = f"{part.prefix}{tensor.name}"
    for node in part.nodes:
        renamed(node, names)
    return copies


def _certainty(value: str, activation: mean.Activation, options: How, write: Writer) -> str:
    """float32 [N, 1], see `confidence`."""
    if mean.averages_logits(options.aggregation, activation):
        value = write("Sigmoid", value) if activation == "sigmoid" else write("Softmax", value, axis=-1)
    if activation == "sigmoid":
        return write("ReduceMin", write("Max", value, write("Sub", write.real(1), value)), write.whole(-1), keepdims=1)
    return write("ReduceMax", value, write.whole(-1), keepdims=1)


def aggregate(logits: np.ndarray, activation: mean.Activation, options: How) -> np.ndarray:
    """Logits [V, N, K] of all voices -> what a graph with `options` answers, float64 [N, K]."""
    every = mean.aggregate(logits, activation, options.aggregation, options.weights, options.temperature)
    if options.exit_at is None:
        return every
    first = mean.aggregate(logits[:1], activation, options.aggregation, (), options.temperature)
    return np.where((confidence(first, activation == "sigmoid") >= options.exit_at)[:, None], first, every)
