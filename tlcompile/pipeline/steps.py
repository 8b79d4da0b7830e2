"""Every kind of step, with the named parts of its key. Which steps a build has, and in which order, says `plan.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.options import PathText
from tlcompile.pipeline import search, stages, timing
from tlcompile.pipeline.step import Step, plugin_parts, tools
from tlcompile.recipe import Plugin, Recipe, Target
from tlcompile.store import Store

Engine = tuple[Target, str, str]  # target, variant, the step of its graph


def engine_name(target: Target, variant: str) -> str:
    return f"compile/{target.name}/{variant}"


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


def train_step(recipe: Recipe, store: Store, name: str = "train", data: str = "data") -> Step:
    """`data` is the step whose training examples are learnt."""
    return Step(
        name,
        "train",
        ("data", "features") if recipe.train.trainable == "head" else tuple(dict.fromkeys(("data", data))),
        lambda: training_parts(recipe, store),
        partial(stages.train, recipe, data),
    )


def training_parts(recipe: Recipe, store: Store) -> dict[str, Any]:
    return {
        "model": plugin_parts(recipe.model, store),
        "table": recipe.train.key(),
        "paths": {k: store.stats.digest(v.absolute) for k, v in recipe.train.augment if isinstance(v, PathText)},
        "seed": recipe.seed,
        "tools": tools("torch", "torchvision", "accelerate", "peft", "tokenizers", "pillow"),
        "device": gpu(),
    }


def compress_step(recipe: Recipe, step: Plugin, name: str, before: str, store: Store) -> Step:
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


def pass_step(name: str, recipe: Recipe, step: Plugin, dialect: str, before: str, store: Store) -> Step:
    """A pass that searches also depends on what it is judged by."""

    def parts() -> dict[str, Any]:
        judged = {"margin": recipe.gates.max_accuracy_drop, "alpha": recipe.evaluate.alpha}
        return {
            "pass": plugin_parts(step, store),
            "dialect": dialect,
            "tools": tools("onnxruntime", "onnxruntime-gpu"),
            **({"judged": judged} if search.asked(step) else {}),
        }

    return Step(name, "optimize", ("data", before), parts, partial(stages.optimize, recipe, step, dialect, before))


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


def evaluate_step(target: Target, variant: str, graph: str, reference: str) -> Step:
    """`reference` is the step of the fp32 graph whose golden answers the engine's self-test is held against."""
    engine = engine_name(target, variant)
    return Step(
        f"evaluate/{target.name}/{variant}",
        "evaluate",
        tuple(dict.fromkeys(("data", graph, reference, engine))),
        lambda: {"device": backends.device(target.backend.name, target.backend.options)},
        partial(stages.evaluate, graph, engine, reference, 32),
    )


def latency_step(recipe: Recipe, engines: tuple[str, ...]) -> Step:
    def parts() -> dict[str, Any]:
        devices = {t.name: backends.device(t.backend.name, t.backend.options) for t in recipe.targets}
        table = recipe.evaluate.model_dump(mode="json", include={"batch_size", "latency_runs"})
        return {"table": table, "devices": devices}

    return Step("evaluate/latency", "evaluate", ("data", *engines), parts, partial(timing.latency, recipe, engines))


def report_step(recipe: Recipe, before: list[Step]) -> Step:
    names = tuple(step.name for step in before)
    asked = (recipe.extras.tta, recipe.extras.ensemble.table if recipe.extras.ensemble else None)

    def parts() -> dict[str, Any]:
        judged = {"gates": recipe.gates.model_dump(mode="json"), "alpha": recipe.evaluate.alpha}
        judged["slowdown"] = [table.max_slowdown if table else None for table in asked]
        explored = {"explore": recipe.explore.model_dump(mode="json")} if recipe.explore else {}
        return {"name": recipe.name, **judged, **explored}

    return Step("report", "report", names, parts, partial(stages.report, recipe))


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
