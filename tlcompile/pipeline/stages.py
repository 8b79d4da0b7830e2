"""What each step does: takes what was made before, calls one room, fills one folder."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile import registry
from tlcompile.artifacts import Checkpoint, Engine, Feed, Graph, Splits, read_json, write_json
from tlcompile.parity import Tolerance
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Plugin, Recipe, Target

if TYPE_CHECKING:
    from tlcompile.train import Job

ENGINE_TOLERANCE = defaultdict(lambda: Tolerance(max_abs=1.0, agreement=0.8), fp32=Tolerance(5e-3, 1.0))
"""How far an engine may be from its own graph: rounding in fp32; in int8, kernels that round between layers."""


def data(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.data import prepare

    task = registry.load("tasks", recipe.task)
    prepare(recipe.source.module, recipe.source.options, recipe.data, task.KIND, recipe.seed, folder, task.LABELS)


def splits_of(made: Made) -> Splits:
    return Splits(made["data"].folder, made["data"].digest)


def features(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.train.features import write

    write(job(recipe, made), folder)


def train(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.train import run

    run(job(recipe, made), folder, work)


def job(recipe: Recipe, made: Made) -> Job:
    from tlcompile.train import Job

    splits = splits_of(made)
    return Job(
        recipe.task,
        recipe.model,
        recipe.train,
        recipe.seed,
        splits.folder.resolve(),
        splits.classes,
        recipe.path.parent.resolve(),
        recipe.name,
        made["features"].folder.resolve() if "features" in made else None,
    )


def compress(recipe: Recipe, step: Plugin, before: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.compress import Context, run
    from tlcompile.models._restore import restore
    from tlcompile.pipeline.trial import latency_of
    from tlcompile.train import run as run_training

    start = job(recipe, made)
    checkpoint = checkpoint_of(made, before)

    def train(begin: Path, overrides: Mapping[str, Any], out: Path, scratch: Path, teacher: Path | None = None) -> None:
        for place in (out, scratch):
            place.mkdir(parents=True, exist_ok=True)
        keys = {**start.table.model_dump(mode="json"), **overrides}
        table = start.table.model_validate(keys, context={"base": start.base})
        run_training(replace(start, table=table, start=begin, teacher=teacher, features=None), out, scratch)

    context = Context(
        checkpoint,
        splits_of(made),
        lambda: restore(checkpoint.folder, recipe.model.module, recipe.model.options),
        train,
        lambda network: latency_of(recipe, checkpoint, splits_of(made), network, work),
        work,
    )
    run(step, context, folder)


def checkpoint_of(made: Made, step: str) -> Checkpoint:
    return Checkpoint(made[step].folder, made[step].digest)


def export(recipe: Recipe, checkpoint: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.export import export as to_graph

    to_graph(checkpoint_of(made, checkpoint), splits_of(made), recipe.model, recipe.export, folder)


def optimize(step: Plugin, dialect: str, before: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.optimize import Context, run

    graph = Graph(made[before].folder, made[before].digest)
    run(step, graph, Context(dialect, lambda: calibration(graph, splits_of(made))), folder)


def calibration(graph: Graph, splits: Splits) -> Iterator[Feed]:
    """The calibration examples, one a feed: batches would pad texts, and images differ in size."""
    from tlcompile import progress
    from tlcompile.data import Split
    from tlcompile.runtime.feeds import feeder

    feed = feeder(graph.signature, graph.folder)
    split = Split(splits.folder, "train")
    indices = splits.info["calibration"]
    yield from (feed([split[i]]) for i in progress.track(indices, "calibrate", len(indices)))


def compile(target: Target, variant: str, graph: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.compile import build

    build(target.backend.name, target.backend.options, Graph(made[graph].folder, made[graph].digest), variant, folder)


def evaluate(graph: str, engine: str, batch_size: int, made: Made, folder: Path, work: Path) -> None:
    """Accuracy in the runtime that ships. Where it can't run here, that of the same graph in ONNX Runtime, marked so.

    The golden feeds are run first: an engine that answers unlike the graph it was built of stops the build.
    """
    from tlcompile import parity
    from tlcompile.evaluate.accuracy import measure
    from tlcompile.runtime import golden

    source = Graph(made[graph].folder, made[graph].digest)
    compiled = Engine(made[engine].folder, made[engine].digest)
    runs_here, variant = compiled.info["runs_here"], compiled.info["variant"]
    place = compiled.folder if runs_here else _stand_in(source, variant, work / "stand-in")
    feeds, _ = golden.load(source.folder / "golden.npz")
    _, torch_answers = golden.load(made["export"].folder / "golden.npz")  # of the network as trained
    result, answers = measure(place, splits_of(made), "test", batch_size, feeds, folder)
    before = read_json(source.folder / "parity.json")[-1]["rung"]
    expected = parity.run_graph(source.model, feeds)
    allowed, signature = ENGINE_TOLERANCE[variant.rpartition("-")[2]], source.signature
    rung = parity.compare(engine, before, answers, expected, allowed, signature)
    write_json(folder / "parity.json", [parity.check(rung).to_json()])
    from_torch = parity.compare(engine, "torch", answers, torch_answers, allowed, signature)
    result["measured_in"] = compiled.info["backend"] if runs_here else f"onnxruntime: {compiled.info['why_not']}"
    result["golden"] = {"max_abs": from_torch.max_abs, "agreement": from_torch.agreement}
    write_json(folder / "evaluation.json", result)


def _stand_in(graph: Graph, variant: str, folder: Path) -> Path:
    """The graph as ONNX Runtime computes it on the CPU, Q/DQ in fp32 as it is written."""
    from tlcompile.compile import build

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = registry.load("compile", "onnxruntime").Options(integer_kernels=False)
    build("onnxruntime", options, graph, variant, folder)
    return folder


def latency(recipe: Recipe, engines: tuple[str, ...], made: Made, folder: Path, work: Path) -> None:
    """All engines that run here, in one interleaved run."""
    from tlcompile.data import Split
    from tlcompile.evaluate.latency import measure
    from tlcompile.runtime.feeds import feeder

    opened = {name: Engine(made[name].folder, made[name].digest) for name in engines}
    running = {name: engine.folder for name, engine in opened.items() if engine.info["runs_here"]}
    result: dict[str, Any] = {}
    if running:
        first = next(iter(opened.values()))
        feed = feeder(first.signature, first.folder)
        example = typical(Split(splits_of(made).folder, "test"))
        feeds = {size: feed([example] * size) for size in (1, recipe.evaluate.batch_size)}
        result = measure(running, feeds, recipe.evaluate.latency_runs)
    write_json(folder / "latency.json", {"engines": result})


def typical(split: Any) -> Any:
    """The example of median size (pixels, or bytes of text)."""
    import numpy as np

    sizes = split.shapes.astype(np.int64).prod(-1)
    return split[int(np.argsort(sizes, kind="stable")[len(sizes) // 2])]


def report(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.pipeline.facts import gather
    from tlcompile.report.write import write

    write(gather(recipe, made), folder, made["train"].folder / "samples")


def package(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.package.bundle import write
    from tlcompile.pipeline.facts import portable_graph, shipped

    facts = read_json(made["report"].folder / "report.json")
    base = portable_graph(made)
    write(
        folder,
        name=recipe.name,
        recipe_text=recipe.text,
        resolved=recipe.resolved(),
        graph=base,
        engines=shipped(facts, made),
        golden=base.folder / "golden.npz",
        report=made["report"].folder,
        facts=facts,
    )
