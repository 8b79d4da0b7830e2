"""Recipe -> the steps of its build, in order. This list is the program; read it first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.errors import Problem, RecipeError, nearest, one_of
from tlcompile.options import PathText
from tlcompile.pipeline import stages
from tlcompile.pipeline.step import Step, plugin_parts, tools
from tlcompile.recipe import Plugin, Recipe, Target
from tlcompile.recipe.train_table import NOT_IN_KEY
from tlcompile.store import Store

Engine = tuple[Target, str, str]  # target, variant, the step of its graph
BASE = "optimize/base/"
FP32 = "fp32"


def plan(recipe: Recipe, store: Store) -> list[Step]:
    """Every step of building `recipe`. RecipeError where targets ask for variants that no pass makes."""
    steps = first_steps(recipe, store)
    lines = {"": "train"}
    for step in recipe.compress:
        line, before = list(lines.items())[-1]
        steps.append(compress_step(recipe, step, before, store))
        lines[named(line, step.module.LINE)] = steps[-1].name
    bases = {}
    for line, checkpoint in lines.items():
        steps += graph_steps(recipe, line, checkpoint, store)
        bases[line] = steps[-1].name
    engines = fork_steps(recipe, bases, store, steps)
    steps += [compile_step(*engine, store) for engine in engines]
    steps += [evaluate_step(*engine) for engine in engines]
    names = tuple(engine_name(target, variant) for target, variant, _ in engines)
    steps.append(latency_step(recipe, names))
    steps.append(report_step(recipe, steps))
    steps.append(package_step(recipe, steps))
    return steps


def named(line: str, word: str) -> str:
    """`pruned` and `int8` -> `pruned-int8`; the line of the network as trained has no word of its own."""
    return f"{line}-{word}" if line else word


def fork_steps(recipe: Recipe, bases: Mapping[str, str], store: Store, steps: list[Step]) -> list[Engine]:
    """Append the passes that make variants, once a dialect, to `steps`; every engine that is to be built."""
    forks = {p.module.variant(p.options): p for p in recipe.passes if p.module.variant(p.options)}
    made = {named(line, precision): (line, precision) for line in bases for precision in (FP32, *forks)}
    graphs: dict[tuple[str, str], str] = {}
    engines = []
    for target, variant in wanted(recipe, tuple(made)):
        line, precision = made[variant]
        dialect = backends.dialect(target.backend.name, target.backend.options) if precision != FP32 else ""
        if precision == FP32:
            graphs[variant, dialect] = bases[line]
        elif (variant, dialect) not in graphs:
            step = pass_step(f"optimize/{variant}-{dialect}", forks[precision], dialect, bases[line], store)
            graphs[variant, dialect] = step.name
            steps.append(step)
        engines.append((target, variant, graphs[variant, dialect]))
    return engines


def engine_name(target: Target, variant: str) -> str:
    return f"compile/{target.name}/{variant}"


def wanted(recipe: Recipe, known: tuple[str, ...]) -> list[tuple[Target, str]]:
    """(target, variant) in the recipe's order; a target that names no variants gets all of them."""
    problems = [
        Problem(
            f"{recipe.path}: compile '{t.name}': variants",
            f"no pass of [optimize] makes '{v}'; known here: {one_of(known)}",
            nearest(v, known),
        )
        for t in recipe.targets
        for v in t.variants
        if v not in known
    ]
    if problems:
        raise RecipeError(*problems)
    return [(t, v) for t in recipe.targets for v in t.variants or known]


def first_steps(recipe: Recipe, store: Store) -> list[Step]:
    """data -> train."""
    return [data_step(recipe, store), *features_steps(recipe, store), train_step(recipe, store)]


def graph_steps(recipe: Recipe, line: str, checkpoint: str, store: Store) -> list[Step]:
    """export -> the passes that every target shares, for the networks of one line."""
    steps = [export_step(recipe, line, checkpoint, store)]
    for step in recipe.passes:
        if not step.module.variant(step.options):
            steps.append(pass_step(f"{BASE}{named(line, step.name)}", step, "", steps[-1].name, store))
    return steps


def data_step(recipe: Recipe, store: Store) -> Step:
    task = registry.load("tasks", recipe.task)
    return Step(
        "data",
        "data",
        (),
        lambda: {
            "table": recipe.data.model_dump(mode="json", exclude={"source"}),
            "source": plugin_parts(recipe.source, store),
            "kind": task.KIND,
            "labels": task.LABELS,
            "seed": recipe.seed,
            "tools": tools("numpy", "pyarrow", "pillow"),
        },
        partial(stages.data, recipe),
    )


def train_step(recipe: Recipe, store: Store) -> Step:
    return Step(
        "train",
        "train",
        ("data", "features") if recipe.train.trainable == "head" else ("data",),
        lambda: training_parts(recipe, store),
        partial(stages.train, recipe),
    )


def training_parts(recipe: Recipe, store: Store) -> dict[str, Any]:
    return {
        "model": plugin_parts(recipe.model, store),
        "table": recipe.train.model_dump(mode="json", exclude=set(NOT_IN_KEY)),
        "paths": {k: store.stats.digest(v.absolute) for k, v in recipe.train.augment if isinstance(v, PathText)},
        "seed": recipe.seed,
        "tools": tools("torch", "torchvision", "accelerate", "peft", "tokenizers", "pillow"),
        "device": gpu(),
    }


def compress_step(recipe: Recipe, step: Plugin, before: str, store: Store) -> Step:
    """A pass over the trained network. What it measures is part of its key by the devices of the targets."""

    def parts() -> dict[str, Any]:
        engines = {
            t.name: {
                "backend": plugin_parts(t.backend, store),
                "device": backends.device(t.backend.name, t.backend.options),
            }
            for t in recipe.targets
        }
        return {"pass": plugin_parts(step, store), "training": training_parts(recipe, store), "engines": engines}

    name = f"compress/{step.name}"
    return Step(name, "compress", ("data", before), parts, partial(stages.compress, recipe, step, before))


def export_step(recipe: Recipe, line: str, checkpoint: str, store: Store) -> Step:
    return Step(
        f"export/{line}" if line else "export",
        "export",
        ("data", checkpoint),
        lambda: {
            "model": plugin_parts(recipe.model, store),
            "table": recipe.export.model_dump(mode="json"),
            "tools": tools("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
        },
        partial(stages.export, recipe, checkpoint),
    )


def features_steps(recipe: Recipe, store: Store) -> list[Step]:
    """What the frozen body says of each example, where only the head is trained: no key of `[train]` is part of it."""
    if recipe.train.trainable != "head":
        return []

    def parts() -> dict[str, Any]:
        used = tools("torch", "torchvision", "tokenizers", "pillow")
        return {"model": plugin_parts(recipe.model, store), "seed": recipe.seed, "tools": used, "device": gpu()}

    return [Step("features", "train", ("data",), parts, partial(stages.features, recipe))]


def pass_step(name: str, step: Plugin, dialect: str, before: str, store: Store) -> Step:
    return Step(
        name,
        "optimize",
        ("data", before),
        lambda: {
            "pass": plugin_parts(step, store),
            "dialect": dialect,
            "tools": tools("onnxruntime", "onnxruntime-gpu"),
        },
        partial(stages.optimize, step, dialect, before),
    )


def compile_step(target: Target, variant: str, graph: str, store: Store) -> Step:
    backend = target.backend
    return Step(
        engine_name(target, variant),
        "compile",
        (graph,),
        lambda: {
            "backend": plugin_parts(backend, store),
            "variant": variant,
            "device": backends.device(backend.name, backend.options),
        },
        partial(stages.compile, target, variant, graph),
    )


def evaluate_step(target: Target, variant: str, graph: str) -> Step:
    engine = engine_name(target, variant)
    return Step(
        f"evaluate/{target.name}/{variant}",
        "evaluate",
        ("data", "export", graph, engine),
        lambda: {"device": backends.device(target.backend.name, target.backend.options)},
        partial(stages.evaluate, graph, engine, 32),
    )


def latency_step(recipe: Recipe, engines: tuple[str, ...]) -> Step:
    def parts() -> dict[str, Any]:
        devices = {t.name: backends.device(t.backend.name, t.backend.options) for t in recipe.targets}
        table = recipe.evaluate.model_dump(mode="json", include={"batch_size", "latency_runs"})
        return {"table": table, "devices": devices}

    return Step("evaluate/latency", "evaluate", ("data", *engines), parts, partial(stages.latency, recipe, engines))


def report_step(recipe: Recipe, before: list[Step]) -> Step:
    names = tuple(step.name for step in before)
    return Step(
        "report",
        "report",
        names,
        lambda: {"name": recipe.name, "gates": recipe.gates.model_dump(mode="json"), "alpha": recipe.evaluate.alpha},
        partial(stages.report, recipe),
    )


def package_step(recipe: Recipe, before: list[Step]) -> Step:
    return Step(
        "package",
        "package",
        tuple(step.name for step in before),
        lambda: {"recipe": recipe.text, "resolved": recipe.resolved()},
        partial(stages.package, recipe),
    )


def gpu() -> str:
    """The NVIDIA driver that training would use, or 'cpu'. Reads one small file; imports no torch."""
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return "cpu"
