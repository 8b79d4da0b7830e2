"""The loop over views that fused graphs replace: one run of the network a view. For selection and for parity."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcompile import parity
from tlcompile.artifacts import Feed, Graph, Signature
from tlcompile.optimize import _views_mean as mean

if TYPE_CHECKING:
    from tlcompile.optimize._views_tokens import Special
    from tlcompile.optimize.fuse_tta import Options


def view_outputs(
    graph: Graph, feeds: Sequence[Feed], views: Sequence[str], aggregation: mean.Aggregation = "logits"
) -> np.ndarray:
    """Logits float32 [V, N, K] of all examples of `feeds`, in their order, in ONNX Runtime.

    All windows of a text are one view; `aggregation` says how they are one answer.
    """
    return _logits(graph.model, graph.signature, feeds, views, aggregation)


def looped(model: Path, signature: Signature, options: Options, feeds: Sequence[Feed]) -> list[Feed]:
    """The answers of `options`, one a feed, computed in numpy of the logits of one view after the other."""
    from tlcompile.optimize._early_exit import aggregate

    logits = _logits(model, signature, feeds, options.views, options.aggregation)
    value = mean.in_unit(aggregate(logits, mean.activation_of(signature), options), signature)
    counts = [len(next(iter(feed.values()))) for feed in feeds]
    return [{signature.answer: part} for part in np.split(value, np.cumsum(counts)[:-1])]


def beginning(feed: Feed, limit: int, framing: Special) -> Feed:
    """Texts cut at `limit` tokens, as their tokenizer cuts them: one that is too long keeps its last token."""
    ids, mask = feed["input_ids"], feed["attention_mask"]
    cut = {**feed, "input_ids": ids[:, :limit].copy(), "attention_mask": mask[:, :limit]}
    lengths = mask.sum(1)
    for row in np.flatnonzero(lengths > limit) if framing.last else ():
        cut["input_ids"][row, -1] = ids[row, lengths[row] - 1]
    return cut


def _logits(
    model: Path, signature: Signature, feeds: Sequence[Feed], views: Sequence[str], windows: mean.Aggregation
) -> np.ndarray:
    import onnx

    from tlcompile.optimize import fuse_tta
    from tlcompile.optimize._views import parse

    loaded, special = onnx.load(model), fuse_tta.special(model)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        single = Path(scratch) / "view.onnx"
        for view in parse(views, signature.kind):
            alone = fuse_tta.Options(views=(view.name,), aggregation=windows if view.all_windows else "logits")
            onnx.save(fuse_tta.fuse(loaded, signature, alone, special), single)
            outputs = parity.run_graph(single, list(feeds))
            found.append(np.concatenate([output["logits"] for output in outputs]))
    return np.stack(found)
