"""What each step does: takes what was made before, calls one room, fills one folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile import registry
from tlcompile.artifacts import Checkpoint, Engine, Feed, Graph, Lesson, Splits, read_json, write_json
from tlcompile.pipeline.pseudo_steps import ANSWERS
from tlcompile.pipeline.step import Made, splits_of
from tlcompile.recipe import Plugin, Recipe, Target

if TYPE_CHECKING:
    from tlcompile.train import Job


def data(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.data import prepare

    task = registry.load("tasks", recipe.task)
    prepare(recipe.source.module, recipe.source.options, recipe.data, task.KIND, recipe.seed, folder, task.LABELS)


def features(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.train.features import write

    write(job(recipe, made), folder)


def train(recipe: Recipe, data: str, made: Made, folder: Path, work: Path) -> None:
    """`data` is the step whose training examples are learnt; where it kept answers to them, these are learnt."""
    from tlcompile.train import run

    start = job(recipe, made, data)
    soft = (made[data].folder / ANSWERS).exists()
    lesson = Lesson(answers=made[data].folder, alpha=1.0, temperature=1.0) if soft else None
    run(replace(start, teacher=lesson), folder, work)


def job(recipe: Recipe, made: Made, data: str = "data") -> Job:
    from tlcompile.train import Job

    splits = Splits(made[data].folder, made[data].digest)
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
    from tlcompile import compile as backends
    from tlcompile.compress import Context, run
    from tlcompile.models._restore import restore
    from tlcompile.pipeline.trial import latency_of
    from tlcompile.train import run as run_training

    start = job(recipe, made)
    checkpoint = checkpoint_of(made, before)

    def train(
        begin: Path,
        overrides: Mapping[str, Any],
        out: Path,
        scratch: Path,
        teacher: Lesson | None = None,
        dress: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        for place in (out, scratch):
            place.mkdir(parents=True, exist_ok=True)
        keys = {**start.table.model_dump(mode="json"), **overrides}
        table = start.table.model_validate(keys, context={"base": start.base})
        changed = replace(start, table=table, start=begin, teacher=teacher, features=None, dress=dress or {})
        run_training(changed, out, scratch)

    context = Context(
        checkpoint,
        splits_of(made),
        lambda: restore(checkpoint.folder, recipe.model.module, recipe.model.options),
        train,
        lambda network, only: latency_of(recipe, checkpoint, splits_of(made), network, work, only),
        work,
        tuple(dict.fromkeys(backends.dialect(t.backend.name, t.backend.options) for t in recipe.targets)),
    )
    run(step, context, folder)


def checkpoint_of(made: Made, step: str) -> Checkpoint:
    return Checkpoint(made[step].folder, made[step].digest)


def export(recipe: Recipe, checkpoint: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.export import export as to_graph

    to_graph(checkpoint_of(made, checkpoint), splits_of(made), recipe.model, recipe.export, folder)


def optimize(recipe: Recipe, step: Plugin, dialect: str, before: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.optimize import Context, run
    from tlcompile.pipeline import search

    graph, splits = Graph(made[before].folder, made[before].digest), splits_of(made)
    context = Context(dialect, lambda: calibration(graph, splits))
    if search.asked(step):
        context = search.context(context, recipe, graph, splits, work)
    run(step, graph, context, folder)


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


def evaluate(graph: str, engine: str, reference: str, batch_size: int, made: Made, folder: Path, work: Path) -> None:
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
    _, wanted = golden.load(made[reference].folder / "golden.npz")
    signature, precision = source.signature, variant.rpartition("-")[2]
    asked = parity.probes(feeds, signature)
    result, answers = measure(place, splits_of(made), "test", batch_size, asked, folder)
    before = read_json(source.folder / "parity.json")[-1]
    options = compiled.info["options"]
    rungs = parity.compare_engine(engine, before, answers, source.model, feeds, precision, signature, options)
    write_json(folder / "parity.json", [parity.check(rung).to_json() for rung in rungs])
    off = parity.compare(engine, reference, answers[: len(feeds)], wanted, rungs[0].tolerance, signature)
    result["measured_in"] = compiled.info["backend"] if runs_here else f"onnxruntime: {compiled.info['why_not']}"
    sway = before.get("sway", {}).get("max_abs", 0.0)
    result["golden"] = {"of": reference, "max_abs": off.max_abs, "agreement": off.agreement, "sway": sway}
    write_json(folder / "evaluation.json", result)


def _stand_in(graph: Graph, variant: str, folder: Path) -> Path:
    """The graph as ONNX Runtime computes it on the CPU, Q/DQ in fp32 as it is written and bf16 emulated."""
    from tlcompile import emulation
    from tlcompile.compile import build

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    graph = emulation.stand_in(graph, folder / "emulated")
    options = registry.load("compile", "onnxruntime").Options(integer_kernels=False)
    build("onnxruntime", options, graph, variant, folder)
    return folder


def report(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.pipeline.facts import gather
    from tlcompile.report.write import write

    write(gather(recipe, made), folder, made["train"].folder / "samples")


def package(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.package.bundle import write
    from tlcompile.pipeline.explore_choice import bundled
    from tlcompile.pipeline.facts import other_golden, portable_graph, shipped

    facts = bundled(read_json(made["report"].folder / "report.json"))
    base = portable_graph(recipe, facts, made)
    write(
        folder,
        name=recipe.name,
        recipe_text=recipe.text,
        resolved=recipe.resolved(),
        graph=base,
        engines=shipped(facts, made),
        golden=base.folder / "golden.npz",
        other_golden=other_golden(facts, made, base),
        report=made["report"].folder,
        facts=facts,
    )
