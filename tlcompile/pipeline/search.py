"""What a pass that searches is judged by: held-out examples, the recipe's margin, and time on the targets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile import compile as backends
from tlcompile.artifacts import Feed, Graph, Splits
from tlcompile.recipe import Plugin, Recipe

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.optimize import Context

EXAMPLES, RUNS = 256, 60


def asked(step: Plugin) -> bool:
    return bool(getattr(step.options, "search", False))


def context(plain: Context, recipe: Recipe, graph: Graph, splits: Splits, work: Path) -> Context:
    """`plain` with validation examples, the drop on them, the margin of the gates and the time on the targets."""
    from tlcompile.data import Split
    from tlcompile.evaluate.figures import scores
    from tlcompile.evaluate.statistics import paired_drop
    from tlcompile.pipeline.choose import DEFAULT_MARGIN
    from tlcompile.runtime.feeds import feeder

    held_out, labels = Split(splits.folder, "val"), graph.signature.labels
    truth, feed = held_out.truth[:EXAMPLES], feeder(graph.signature, graph.folder)

    def validation() -> Iterator[Feed]:
        return (feed([held_out[i]]) for i in range(len(truth)))

    def drop(fp32: np.ndarray, other: np.ndarray) -> tuple[float, float]:
        pair = [scores(answers, truth, labels) for answers in (fp32, other)]
        found = paired_drop(pair[0], pair[1], recipe.evaluate.alpha)
        return found.drop, found.upper

    return replace(
        plain,
        validation=validation,
        drop=drop,
        margin=recipe.gates.max_accuracy_drop or DEFAULT_MARGIN,
        latency=lambda model: slowest(model, recipe, graph, plain.dialect, next(validation()), work),
        work=work,
    )


def slowest(model: Path, recipe: Recipe, graph: Graph, dialect: str, feed: Feed, work: Path) -> float:
    """Median milliseconds at batch 1 of the ONNX file `model` on the slowest of the targets that take `dialect`."""
    import shutil

    from tlcompile.evaluate.latency import measure

    with tempfile.TemporaryDirectory(dir=work) as scratch:
        copy = Path(scratch) / "graph"
        shutil.copytree(graph.folder, copy, ignore=shutil.ignore_patterns("model.onnx"))
        shutil.copyfile(model, copy / "model.onnx")
        engines = {}
        for target in recipe.targets:
            name, options = target.backend.name, target.backend.options
            if not backends.runs_here(name, options) and backends.dialect(name, options) == dialect:
                folder = Path(scratch) / target.name
                folder.mkdir()
                backends.build(name, options, Graph(copy, ""), "int8", folder)
                engines[target.name] = folder
        found = measure(engines, {1: feed}, RUNS) if engines else {}
    return max((float(row["batches"]["1"]["p50_ms"]) for row in found.values()), default=0.0)
