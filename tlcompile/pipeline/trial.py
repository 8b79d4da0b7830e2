"""How fast a network would be, without training it to the end: what passes over networks steer by."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.artifacts import Checkpoint, Engine, Graph, Splits, write_json
from tlcompile.recipe import Recipe, Target

if TYPE_CHECKING:
    from tlcompile.models._network import Network

CALIBRATION, RUNS = 8, 60
FP32 = "fp32"


def latency_of(
    recipe: Recipe, checkpoint: Checkpoint, splits: Splits, network: Network, work: Path
) -> dict[str, float]:
    """Median milliseconds at batch 1 of `network` on every target that runs here, in fp32 and as every variant.

    Its weights decide nothing, so no parity is asked for and few examples calibrate.
    """
    from tlcompile.data import Split
    from tlcompile.evaluate.latency import measure
    from tlcompile.pipeline.stages import typical
    from tlcompile.runtime.feeds import feeder

    here = [t for t in recipe.targets if not backends.runs_here(t.backend.name, t.backend.options)]
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        base = exported(recipe, checkpoint, splits, network, Path(scratch) / FP32)
        engines = {}
        for target in here:
            for variant, graph in variants(recipe, target, base, splits, Path(scratch)):
                folder = Path(scratch) / f"{target.name}-{variant}-engine"
                folder.mkdir()
                backends.build(target.backend.name, target.backend.options, graph, variant, folder)
                engines[f"{target.name}/{variant}"] = Engine(folder, "").folder
        if not engines:
            return {}
        feed = feeder(base.signature, base.folder)([typical(Split(splits.folder, "val"))])
        found = measure(engines, {1: feed}, RUNS)
    return {name: float(row["batches"]["1"]["p50_ms"]) for name, row in found.items()}


def exported(recipe: Recipe, checkpoint: Checkpoint, splits: Splits, network: Network, folder: Path) -> Graph:
    """The graph of `network` after the passes that every target shares."""
    import shutil

    from tlcompile.export.graph import assemble, save, signature_of
    from tlcompile.export.network import to_onnx

    folder.mkdir()
    task = registry.load("tasks", recipe.task)
    core = to_onnx(network, recipe.export.exporter, recipe.export.opset, folder / "model.onnx")
    model = assemble(core, network, recipe.export.opset, task.ACTIVATION, splits.target)
    save(model, folder / "model.onnx")
    signature = signature_of(model, network, checkpoint, task, splits.target)
    write_json(folder / "signature.json", signature.to_json())
    if network.tokenizer is not None:
        shutil.copyfile(network.tokenizer, folder / "tokenizer.json")
    for step in recipe.passes:
        if not step.module.variant(step.options):
            after = folder / "after.onnx"
            step.module.apply(folder / "model.onnx", step.options, _context("", recipe, folder, splits), after)
            after.replace(folder / "model.onnx")
    return Graph(folder, "")


def variants(recipe: Recipe, target: Target, base: Graph, splits: Splits, scratch: Path) -> list[tuple[str, Graph]]:
    """(variant, graph) of `base` as `target` would get them."""
    import shutil

    found = [(FP32, base)]
    dialect = backends.dialect(target.backend.name, target.backend.options)
    for step in recipe.passes:
        variant = step.module.variant(step.options)
        if not variant:
            continue
        folder = scratch / f"{variant}-{dialect}"
        if not folder.exists():
            shutil.copytree(base.folder, folder, ignore=shutil.ignore_patterns("model.onnx"))
            context = _context(dialect, recipe, base.folder, splits)
            step.module.apply(base.model, step.options, context, folder / "model.onnx")
        found.append((variant, Graph(folder, "")))
    return found


def _context(dialect: str, recipe: Recipe, folder: Path, splits: Splits) -> object:
    from tlcompile.optimize import Context
    from tlcompile.pipeline.stages import calibration

    return Context(dialect, lambda: islice(calibration(Graph(folder, ""), splits), CALIBRATION))
