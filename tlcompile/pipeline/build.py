"""A whole build: what can be said before any work, the steps, the gates, publishing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlcompile import progress, registry
from tlcompile.artifacts import read_json
from tlcompile.errors import BackendMissing, GateError, Problem, RecipeError, TlcompileError, nearest
from tlcompile.options import PathText
from tlcompile.package.publish import check_writable, publish
from tlcompile.pipeline import beforehand
from tlcompile.pipeline.plan import plan
from tlcompile.pipeline.step import Step
from tlcompile.recipe import Recipe
from tlcompile.store import Entry, Store


@dataclass(frozen=True)
class Built:
    """What a build came to. `bundle` is None where it stopped before packaging (`until`)."""

    bundle: Path | None
    report: dict[str, Any] | None
    steps: list[tuple[str, Entry]]
    seconds: float


def check_paths(recipe: Recipe) -> None:
    """RecipeError for every path of the recipe that is not there; imports nothing heavy."""
    problems = []
    plugins = (("data", recipe.source), ("model", recipe.model))
    named = [(f"{table}.{key}", path) for table, plugin in plugins for key, path in plugin.paths()]
    named += [(f"train.augment.{key}", path) for key, path in recipe.train.augment if isinstance(path, PathText)]
    named += recipe.extras.paths()
    for member in recipe.extras.ensemble.members if recipe.extras.ensemble else ():
        named += [(f"{member.name}: model.{key}", path) for key, path in member.model.paths()]
    for key, path in named:
        try:
            there = path.absolute.exists()
        except RecipeError as error:  # a package that is not installed
            problems += [replace(p, where=f"{recipe.path}: {key} = '{p.where}'") for p in error.problems]
            continue
        if not there:
            siblings = [f.name for f in path.absolute.parent.glob("*")] if path.absolute.parent.is_dir() else []
            near = nearest(path.absolute.name, siblings)
            problems.append(Problem(f"{recipe.path}: {key}", f"no such file or folder '{path}'", near))
    if problems:
        raise RecipeError(*problems)


def check_backends(recipe: Recipe) -> None:
    """BackendMissing with the install line for every target whose library is not there, and that is built here."""
    here = [target.backend for target in recipe.targets if not getattr(target.backend.options, "finalize", False)]
    names = {backend.name: registry.load("compile", backend.name) for backend in here}
    missing = [Problem(name, reason) for name, module in names.items() if (reason := module.missing())]
    if missing:
        raise BackendMissing(*missing)


def check_model(recipe: Recipe) -> None:
    """RecipeError where the model library does not know the model, or all that is asked for can't fit. Imports it."""
    problems = [replace(p, where=f"{recipe.path}: {p.where}") for p in recipe.model.module.check(recipe.model.options)]
    for member in recipe.extras.ensemble.members if recipe.extras.ensemble else ():
        if member.model != recipe.model and member.bundle is None:
            found = member.model.module.check(member.model.options)
            problems += [replace(p, where=f"{recipe.path}: {member.name}: {p.where}") for p in found]
    if problems := problems or beforehand.problems(recipe):
        raise RecipeError(*problems)


def build(
    recipe: Recipe, store: Store, output: Path, until: str = "package", fresh: frozenset[str] = frozenset()
) -> Built:
    """Build `recipe` into the bundle `output`. GateError (with the report kept beside) where a gate fails."""
    start = time.monotonic()
    check_paths(recipe)
    check_backends(recipe)
    if until == "package":
        check_writable(output)
    steps = plan(recipe, store)
    if until != "package":
        last = max(i for i, step in enumerate(steps) if step.stage == until)
        steps = steps[: last + 1]
    made: dict[str, Entry] = {}
    checked = False
    for step in steps:
        key = step.key(made)
        entry = None if step.stage in fresh else store.find(key)
        if entry is None:
            if not checked and step.stage in ("data", "train"):
                check_model(recipe)
                checked = True
            if step.name == "package":
                _require_gates(made, output)
            progress.say(f"{step.name} …")
            entry = _make(store, step, key, made, recipe.name, step.stage in fresh)
            progress.say(f"{step.name}  {entry.seconds:.1f} s")
        made[step.name] = entry
    report = read_json(made["report"].folder / "report.json") if "report" in made else None
    bundle = None
    if "package" in made:
        publish(made["package"].folder, output)
        _clear_failure(output)
        bundle = output
    return Built(bundle, report, list(made.items()), time.monotonic() - start)


def _make(store: Store, step: Step, key: Any, made: dict[str, Entry], label: str, fresh: bool) -> Entry:
    fill: Callable[[Path], None] = lambda folder: step.make(made, folder, store.work(key))  # noqa: E731
    try:
        return store.make(key, fill, f"{label}/{step.name}", fresh)
    except TlcompileError:
        raise
    except MemoryError as error:
        raise TlcompileError(Problem(step.name, "out of memory; lower train.batch_size or the image size")) from error
    except OSError as error:
        raise TlcompileError(
            Problem(step.name, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        ) from error


def _require_gates(made: dict[str, Entry], output: Path) -> None:
    """GateError where a gate failed; the report is kept as `<output>.failed`."""
    source = made["report"].folder
    report = read_json(source / "report.json")
    failed = [g for g in report["gates"] if not g["passed"]]
    if failed:
        kept = _clear_failure(output)
        shutil.copytree(source, kept, dirs_exist_ok=True)
        raise GateError(
            *(Problem(f"{g['target']}: {g['gate']} = {g['limit']:g}", g["why"]) for g in failed),
            f"no bundle was published; the report is {kept / 'report.md'}",
        )


def _clear_failure(output: Path) -> Path:
    """Where the report of a failed gate is kept, empty; a folder that holds something else is left alone."""
    kept = output.with_name(f"{output.name}.failed")
    if (kept / "report.json").is_file():
        shutil.rmtree(kept)
    return kept
