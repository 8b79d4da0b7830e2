"""How fast a network would be, without training it to the end: what passes over networks steer by."""

from __future__ import annotations

import shutil
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.artifacts import Checkpoint, Graph, Splits, read_json, write_json
from tlcompile.pipeline import search
from tlcompile.recipe import Recipe, Target

if TYPE_CHECKING:
    from tlcompile.models._network import Network

CALIBRATION, RUNS = 8, 60
COMPARISON_MS, LEAST, MOST = 12_000, 20, 60
"""How long a network and the yardstick take turns, and in how many rounds of two bursts at least and at most."""
FP32 = "fp32"


def latency_of(
    recipe: Recipe, checkpoint: Checkpoint, splits: Splits, network: Network, work: Path, only: str = ""
) -> dict[str, float]:
    """Median milliseconds at batch 1 of `network` on every target that runs here, in fp32 and as every variant.

    With `only` on this one, as "openvino/int8". The weights decide nothing, so no parity is asked for and few examples
    calibrate. A machine is now quicker, now slower: the network of `checkpoint`, kept compiled in `work` and timed
    once, is the yardstick that all others take turns with, and their times are told as if it always took what it took
    then. A network of its shapes takes its time, by definition: the noise between two equal engines would go into
    every speedup.
    """
    from tlcompile.evaluate.latency import BURST, times_as_long

    yardstick = work / "yardstick"
    if not (yardstick / "first.json").exists():  # written last
        _first(recipe, checkpoint, splits, yardstick)
    first: dict[str, float] = read_json(yardstick / "first.json")
    if _shapes(network) == read_json(yardstick / "shapes.json"):
        return first
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        engines = compiled(recipe, checkpoint, splits, network, Path(scratch) / "trial", only)
        with np.load(yardstick / "feed.npz", allow_pickle=False) as stored:
            feed = dict(stored)
        found = {}
        for name, engine in engines.items():
            rounds = min(max(int(COMPARISON_MS / (2 * BURST * first[name])), LEAST), MOST)
            found[name] = first[name] * times_as_long(engine, yardstick / engine.name, feed, rounds)
    return found


def _first(recipe: Recipe, checkpoint: Checkpoint, splits: Splits, yardstick: Path) -> None:
    """The engines of the network of `checkpoint` in `yardstick`, and their times."""
    from tlcompile.evaluate.latency import measure
    from tlcompile.models._restore import restore

    shutil.rmtree(yardstick, ignore_errors=True)
    whole = restore(checkpoint.folder, recipe.model.module, recipe.model.options)
    engines = compiled(recipe, checkpoint, splits, whole, yardstick)
    with np.load(yardstick / "feed.npz", allow_pickle=False) as feed:
        found = measure(engines, {1: dict(feed)}, RUNS) if engines else {}
    write_json(yardstick / "shapes.json", _shapes(whole))
    write_json(yardstick / "first.json", {name: float(row["batches"]["1"]["p50_ms"]) for name, row in found.items()})


def _shapes(network: Network) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in network.module.state_dict().items()}


def compiled(
    recipe: Recipe, checkpoint: Checkpoint, splits: Splits, network: Network, place: Path, only: str = ""
) -> dict[str, Path]:
    """The engines of `network` in `place`, by target and precision, and in `feed.npz` what they are timed with.

    With `only` this one alone.
    """
    from tlcompile.data import Split
    from tlcompile.pipeline.timing import typical
    from tlcompile.runtime.feeds import feeder

    place.mkdir(parents=True)
    base = exported(recipe, checkpoint, splits, network, place / FP32)
    engines = {}
    for target in recipe.targets:
        if backends.runs_here(target.backend.name, target.backend.options):
            continue  # a reason why not
        for variant, graph in variants(recipe, target, base, splits, place):
            if only not in ("", f"{target.name}/{variant}"):
                continue
            folder = place / f"{target.name}-{variant}-engine"
            folder.mkdir()
            backends.build(target.backend.name, target.backend.options, graph, variant, folder)
            engines[f"{target.name}/{variant}"] = folder
    np.savez(
        place / "feed.npz",
        allow_pickle=False,
        **feeder(base.signature, base.folder)([typical(Split(splits.folder, "val"))]),
    )
    return engines


def exported(recipe: Recipe, checkpoint: Checkpoint, splits: Splits, network: Network, folder: Path) -> Graph:
    """The graph of `network` after the passes that every target shares."""
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
        (folder / "tokenizer.json").write_text(network.tokenizer, encoding="utf-8")
    for step in recipe.passes:
        if not step.module.variant(step.options):
            after = folder / "after.onnx"
            step.module.apply(folder / "model.onnx", step.options, _context("", recipe, folder, splits), after)
            after.replace(folder / "model.onnx")
    return Graph(folder, "")


def variants(recipe: Recipe, target: Target, base: Graph, splits: Splits, scratch: Path) -> list[tuple[str, Graph]]:
    """(variant, graph) of `base` as `target` would get them."""
    found = [(FP32, base)]
    dialect = backends.dialect(target.backend.name, target.backend.options)
    for step in recipe.passes:
        variant = step.module.variant(step.options)
        judge = getattr(step.module, "refused", None)
        if not variant or (judge and judge(step.options, target.backend.name)):
            continue
        folder = scratch / f"{variant}-{dialect}"
        if not folder.exists():
            shutil.copytree(base.folder, folder, ignore=shutil.ignore_patterns("model.onnx"))
            context = _context(dialect, recipe, base.folder, splits)
            quick = {"search": False} if search.asked(step) else {}  # which would try many graphs
            options = step.options.model_copy(update=quick)
            step.module.apply(base.model, options, context, folder / "model.onnx")
        found.append((variant, Graph(folder, "")))
    return found


def _context(dialect: str, recipe: Recipe, folder: Path, splits: Splits) -> object:
    from tlcompile.optimize import Context
    from tlcompile.pipeline.stages import calibration

    return Context(dialect, lambda: islice(calibration(Graph(folder, ""), splits), CALIBRATION))
