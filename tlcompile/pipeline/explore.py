"""`[optimize] explore`: how a plan grows by what is tried beside what the recipe names, and what bounds it.

Each speedup makes a line of its own, pruned from the network before `[compress.prune]` with that table's other keys,
and followed by the recipe's further passes. Each thread count makes a sibling of each target that sets none itself.
All of them go through the steps that every build has.

Lines are made one after the other, each up to its last evaluated engine, the least pruned first. Before each stands a
step that says whether to begin: not once the lines before took longer than the budget, by the seconds that the store
keeps of their steps. Its answer, not the budget, is what the line is keyed by: another budget makes nothing anew that
is there. What is not begun, and a speedup that can't be reached, leaves `skipped.json` in the place of its network;
steps that read such a folder hand the file on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tlcompile import compile as backends
from tlcompile import progress, registry
from tlcompile.artifacts import read_json, write_json
from tlcompile.compile._cpu import cores
from tlcompile.errors import GateError, RecipeError
from tlcompile.pipeline.step import Made, Step
from tlcompile.recipe import Plugin, Recipe, Target
from tlcompile.store import Entry

PRUNE, SKIPPED, BEGIN = "prune", "skipped.json", "begin.json"
REJECTED, NOT_TRIED = "rejected", "not tried"
SIBLING = "@"  # openvino@1: `openvino` with one thread; no target of a recipe may be called so


def named(line: str, word: str) -> str:
    """`pruned` and `int8` -> `pruned-int8`; the line of the network as trained has no word of its own."""
    return f"{line}-{word}" if line else word


@dataclass(frozen=True)
class Link:
    """A pass over the network of the line `before`. `name` is its step's; `speedup` is one that is explored."""

    step: Plugin
    name: str
    before: str
    speedup: float | None = None


def links(recipe: Recipe) -> dict[str, Link]:
    """Line -> the pass of `[compress]` that makes it, in the order in which they are made."""
    found: dict[str, Link] = {}
    for speedup in (None, *speedups(recipe)):
        line = tag = ""
        for step in _passes(recipe, speedup):
            explored = speedup if step.name == PRUNE else None
            tag = f"-{explored:g}x" if explored else tag  # of this pass and those behind it
            link = Link(step, f"compress/{step.name}{tag}", line, explored)
            line = named(line, f"{step.module.LINE}{tag if explored else ''}")
            found.setdefault(line, link)
    return found


def _passes(recipe: Recipe, speedup: float | None) -> tuple[Plugin, ...]:
    """`[compress]` with `speedup` in the place of its own; exploring, None is the chain without pruning."""
    if not recipe.explore:
        return recipe.compress
    if speedup is None:
        return tuple(step for step in recipe.compress if step.name != PRUNE)
    own = next((step for step in recipe.compress if step.name == PRUNE), None)
    options = own.options if own else registry.load("compress", PRUNE).Options()
    asked = Plugin("compress", PRUNE, options.model_copy(update={"speedup": speedup}))
    return tuple(asked if step is own else step for step in recipe.compress) if own else (asked, *recipe.compress)


def speedups(recipe: Recipe) -> tuple[float, ...]:
    """Those that are explored, with that of `[compress.prune]`; the least first."""
    if not recipe.explore:
        return ()
    own = [float(step.to_json()["speedup"]) for step in recipe.compress if step.name == PRUNE]
    return tuple(sorted({f"{speedup:g}": speedup for speedup in (*recipe.explore.speedups, *own)}.values()))


def targets(recipe: Recipe) -> tuple[Target, ...]:
    """The recipe's targets, exploring with a sibling for each thread count where they run here and set none."""
    if not recipe.explore:
        return recipe.targets
    return tuple(sibling for target in recipe.targets for sibling in _siblings(target, recipe, recipe.explore.threads))


def _siblings(target: Target, recipe: Recipe, threads: tuple[int, ...]) -> list[Target]:
    backend, options = target.backend, target.backend.options
    free = "threads" in type(options).model_fields and "threads" not in options.model_fields_set
    if not free or backends.runs_here(backend.name, options):
        return [target]
    found: dict[int, Target] = {}
    for count in sorted(threads):  # 0 first: it keeps the recipe's name
        asked = {**options.model_dump(exclude_unset=True), "threads": count}
        try:
            checked = type(options).model_validate(asked, context={"base": recipe.path.parent})
        except ValidationError:  # not on this device
            return [target]
        name = f"{target.name}{SIBLING}{count}" if count else target.name
        found.setdefault(count or cores(), replace(target, name=name, backend=replace(backend, options=checked)))
    return list(found.values())


def family(target: str) -> str:
    """The recipe's name of a target: `openvino` of `openvino@1`."""
    return target.partition(SIBLING)[0]


def groups(recipe: Recipe) -> list[tuple[Target, ...]]:
    """Targets among which one engine ships: each by itself; exploring, all that run here together."""
    found = targets(recipe)
    here = tuple(t for t in found if recipe.explore and not backends.runs_here(t.backend.name, t.backend.options))
    return [*([here] if here else []), *((t,) for t in found if t not in here)]


def every_line(recipe: Recipe, variants: tuple[str, ...], made: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """What a target names; exploring, a bare precision stands for it in every line of `[compress]`.

    `made`: variant -> its line and precision.
    """
    precisions = {made[v][1] for v in variants if recipe.explore and v in made and not made[v][0]}
    lines = links(recipe)
    return tuple(dict.fromkeys([*variants, *(v for v, (line, p) in made.items() if p in precisions and line in lines)]))


def within_budget(recipe: Recipe, steps: list[Step]) -> list[Step]:
    """`steps` in the order line by line, each explored line behind the step that says whether to begin it."""
    roots = {link.name: link for link in links(recipe).values() if link.speedup}
    of: dict[str, str] = {}  # step -> the pruning that it descends from
    for step in steps:
        found = [of[need] for need in step.needs if need in of]
        if step.name in roots or found:
            of[step.name] = step.name if step.name in roots else found[0]
    ordered = [step for step in steps if step.name not in of]
    earlier: list[str] = []
    for root, link in roots.items():
        own = [step for step in steps if of.get(step.name) == root]
        begin = _begin_step(recipe, link, tuple(earlier))
        ordered += [begin, *(_tried(recipe, s, begin.name) if s.name == root else _handing_on(s) for s in own)]
        earlier += [step.name for step in own]
    return ordered


def _begin_step(recipe: Recipe, link: Link, earlier: tuple[str, ...]) -> Step:
    """Says whether the line of `link` is to be begun after the steps `earlier` of the lines before."""
    assert recipe.explore
    minutes = recipe.explore.budget_minutes

    def make(made: Made, folder: Path, work: Path) -> None:
        why = _why_not([made[name] for name in earlier], minutes)
        write_json(folder / BEGIN, {"begin": not why, "why": why})

    name = f"compress/begin-{link.speedup:g}x"
    return Step(name, "compress", earlier, lambda: {"budget_minutes": minutes}, make)


def _why_not(earlier: list[Entry], minutes: float) -> str:
    """Why another line is not begun; ''."""
    for entry in earlier:
        if (found := skipped(entry)) and found["verdict"] == REJECTED:
            return f"a smaller speedup is out of reach: {found['why']}"
    spent = sum(entry.seconds for entry in earlier) / 60
    return f"the budget of {minutes:g} minutes was spent" if spent >= minutes else ""


def _tried(recipe: Recipe, step: Step, begin: str) -> Step:
    """`step`, where `begin` says so; that it can't reach its speedup is a result."""
    own = any(p.name == PRUNE for p in recipe.compress)
    refusals = (GateError,) if own else (GateError, RecipeError)  # without a table no key of it can be wrong

    def make(made: Made, folder: Path, work: Path) -> None:
        asked = read_json(made[begin].folder / BEGIN)
        if not asked["begin"]:
            _skip(step.name, folder, NOT_TRIED, asked["why"])
            return
        try:
            step.make(made, folder, work)
        except refusals as error:
            shutil.rmtree(folder)
            folder.mkdir()
            _skip(step.name, folder, REJECTED, "; ".join(p.what for p in error.problems))

    return replace(step, needs=(*step.needs, begin), make=make)


def _skip(step: str, folder: Path, verdict: str, why: str) -> None:
    write_json(folder / SKIPPED, {"step": step, "verdict": verdict, "why": why})
    progress.say(f"  {step}: {verdict}: {why}")


def _handing_on(step: Step) -> Step:
    """`step`; where what it reads was skipped, so is it."""

    def make(made: Made, folder: Path, work: Path) -> None:
        if place := next((p for n in step.needs if (p := made[n].folder / SKIPPED).exists()), None):
            shutil.copyfile(place, folder / SKIPPED)
        else:
            step.make(made, folder, work)

    return replace(step, make=make)


def skipped(entry: Entry) -> dict[str, Any] | None:
    """What `skipped.json` of a finished step says, where there is one: `step`, `verdict`, `why`."""
    place = entry.folder / SKIPPED
    return dict(read_json(place)) if place.exists() else None
