"""Budgeted inference: the first view alone where its answer is sure, all views otherwise; and what that is worth.

In the graph this is an ONNX `If`, whose branch reads the one copy of the weights. All examples of a batch must be sure
to leave early, so it is meant for single examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.optimize import _views_mean as mean

if TYPE_CHECKING:
    from tlcompile.artifacts import ImageSpec
    from tlcompile.optimize._views import View
    from tlcompile.optimize._views_cut import Parts, Writer
    from tlcompile.optimize.fuse_tta import Options

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (answers [N, K], truth) -> [N]


def early_exit(
    parts: Parts, views: Sequence[View], spec: ImageSpec, activation: mean.Activation, options: Options, write: Writer
) -> str:
    """What is averaged, [N, K], as `mean.combine` gives it for the first view or for all."""
    from onnx import TensorProto, helper

    from tlcompile.optimize._views_cut import Writer as Inner
    from tlcompile.optimize._views_cut import again
    from tlcompile.optimize._views_pixels import RawViews, tensor_of

    raw = RawViews(parts, spec, "tta.views")
    alone = options.model_copy(update={"weights": ()})
    shape = write.whole(-1, parts.width)

    def combined(logits: str, how: Options, count: int, into: Writer) -> str:
        stacked = into("Reshape", logits, into.whole(count, -1, parts.width))
        return mean.combine(stacked, into.constant(mean.column(how, count)), activation, how, into)

    first = again(parts, (tensor_of(views[0], parts, spec, write, raw),), f"{write.prefix}first/", write)
    sure = combined(first, alone, 1, write)
    rest = Inner(f"{write.prefix}rest/")
    seen = [tensor_of(view, parts, spec, rest, raw) for view in views[1:]]
    batch = rest("Concat", *seen, axis=0) if len(seen) > 1 else seen[0]
    others = again(parts, (batch,), rest.prefix, rest)
    every = combined(rest("Concat", first, others, axis=0), options, len(views), rest)
    stay = Inner(f"{write.prefix}stay/")
    kept = stay("Identity", sure)
    write.constants.extend(rest.constants)
    branches = {
        name: helper.make_graph(
            part.nodes, name, [], [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", parts.width])]
        )
        for name, part, value in (("then_branch", stay, kept), ("else_branch", rest, every))
    }
    return write("Reshape", write("If", _is_sure(sure, activation, options, write), **branches), shape)


def _is_sure(value: str, activation: mean.Activation, options: Options, write: Writer) -> str:
    """bool scalar: the least sure answer of the batch is sure enough."""
    if mean.averages_logits(options.aggregation, activation):
        value = write("Sigmoid", value) if activation == "sigmoid" else write("Softmax", value, axis=-1)
    if activation == "sigmoid":  # each class by itself, one way or the other
        value = write("Max", value, write("Sub", write.real(1), value))
        least = write("ReduceMin", value, keepdims=0)
    else:
        least = write("ReduceMin", write("ReduceMax", value, write.whole(-1), keepdims=0), keepdims=0)
    return write("GreaterOrEqual", least, write.real(options.exit_at or 0.0))


@dataclass(frozen=True)
class Point:
    """`exited`: share of examples that the first view answers alone; `score` is the mean over all examples."""

    threshold: float
    exited: float
    score: float
    mean_ms: float


def confidence(probabilities: np.ndarray, activation: mean.Activation) -> np.ndarray:
    """[N, K] -> [N]: of one class the largest probability, of several labels the least certain one."""
    if activation == "softmax":
        return np.asarray(probabilities.max(-1))
    return np.asarray(np.maximum(probabilities, 1 - probabilities).min(-1))


def right(answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.asarray(answers.argmax(-1) == truth)


def curve(
    logits: np.ndarray,
    truth: np.ndarray,
    options: Options,
    thresholds: Sequence[float],
    first_ms: float,
    all_ms: float,
    activation: mean.Activation = "softmax",
    score: Score = right,
) -> list[Point]:
    """Accuracy and mean latency of single examples for each threshold.

    `logits` [V, N, K] are those of the views (or members), the first one first; `first_ms` and `all_ms` what one of
    them and all of them take.
    """
    how = (options.aggregation, (), options.temperature)
    first = mean.aggregate(logits[:1], activation, *how)
    every = mean.aggregate(logits, activation, options.aggregation, options.weights, options.temperature)
    sure = confidence(first, activation)
    points = []
    for threshold in thresholds:
        leaves = sure >= threshold
        answers = np.where(leaves[:, None], first, every)
        share = float(leaves.mean())
        took = first_ms * share + all_ms * (1 - share)
        points.append(Point(threshold, share, float(score(answers, truth).mean()), took))
    return points
