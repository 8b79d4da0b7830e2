"""Recipe -> the steps of its build, in order. This list is the program; read it first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.errors import Problem, RecipeError, nearest, one_of
from tlcompile.pipeline import ensemble_steps, explore, pseudo_steps
from tlcompile.pipeline.ensemble_steps import Fused
from tlcompile.pipeline.explore import named
from tlcompile.pipeline.step import Step
from tlcompile.pipeline.steps import (
    Engine,
    compile_step,
    compress_step,
    data_step,
    engine_name,
    evaluate_step,
    export_step,
    features_steps,
    latency_step,
    package_step,
    pass_step,
    report_step,
    train_step,
    training_parts,
)
from tlcompile.recipe import Plugin, Recipe, Target
from tlcompile.recipe.ensemble_tables import ENSEMBLE
from tlcompile.store import Store

BASE = "optimize/base/"
FP32 = "fp32"


def plan(recipe: Recipe, store: Store) -> list[Step]:
    """Every step of building `recipe`. RecipeError where targets ask for what can't be had."""
    if problems := unfit(recipe):
        raise RecipeError(*problems)
    members = ensemble_steps.member_steps(recipe, lambda r: training_parts(r, store), store)
    given = ensemble_steps.given_steps(recipe, members, store)
    steps = first_steps(recipe, given, store)
    lines = line_steps(recipe, steps, store)
    steps += [step for step in members.values() if step not in given]
    for soup in ensemble_steps.soup_step(recipe, training_parts(recipe, store)):
        steps.append(soup)
        lines[ensemble_steps.SOUP] = soup.name
    bases = {}
    for line, checkpoint in lines.items():
        steps += graph_steps(recipe, line, checkpoint, store)
        bases[line] = steps[-1].name
    steps += member_graphs(recipe, members, bases, store)
    steps += choose_steps(recipe, members, bases[""], store)
    graphs = Graphs(recipe, store, steps, bases, Fused(recipe, ("", *members)))
    if recipe.extras.distill:
        steps += student_steps(recipe, graphs, store)
    engines = fork_steps(graphs)
    steps += [compile_step(*engine, store) for engine in engines]
    steps += [evaluate_step(*engine, graphs.references[engine[1]]) for engine in engines]
    steps = explore.within_budget(recipe, steps)
    names = tuple(engine_name(target, variant) for target, variant, _ in engines)
    steps.append(latency_step(recipe, names))
    steps.append(report_step(recipe, steps))
    steps.append(package_step(recipe, steps))
    return steps


def line_steps(recipe: Recipe, steps: list[Step], store: Store) -> dict[str, str]:
    """Append the passes over networks to `steps`; line -> the step of its Checkpoint."""
    lines = {"": "train"}
    for line, link in explore.links(recipe).items():
        steps.append(compress_step(recipe, link.step, link.name, lines[link.before], store))
        lines[line] = link.name
    return lines


def precisions_of(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Line -> the only precisions that it is meant for; lines that are for all of them are left out."""
    found = {line: getattr(link.step.module, "PRECISIONS", ()) for line, link in explore.links(recipe).items()}
    return {line: tuple(only) for line, only in found.items() if only}


def member_graphs(recipe: Recipe, members: Mapping[str, Step], bases: dict[str, str], store: Store) -> list[Step]:
    """export -> passes of each member that was trained here; all their graphs join `bases`."""
    steps: list[Step] = []
    for line, own in ensemble_steps.recipes_of(recipe).items():
        steps += graph_steps(own, line, members[line].name, store)
        bases[line] = steps[-1].name
    bases |= {line: step.name for line, step in members.items() if line not in bases}
    return steps


def choose_steps(recipe: Recipe, members: Mapping[str, Step], base: str, store: Store) -> list[Step]:
    """What decides which views and members answer together. `base` is the graph of the network as trained.

    Networks that have learnt the validation examples can't choose on them: they are trained without, to be judged.
    """
    steps: list[Step] = []
    checkpoints = {"": "train", **{line: step.name for line, step in members.items()}}
    for line, own in {"": recipe, **ensemble_steps.recipes_of(recipe)}.items():
        if own.train.retrain_full and recipe.extras.choosing:
            before = ensemble_steps.held_back(own)
            name = f"train/before-{line}" if line else "train/before"
            steps.append(ensemble_steps.training_step(before, name, recipe, lambda r: training_parts(r, store)))
            checkpoints[line] = name
    if recipe.extras.tta and recipe.train.retrain_full:
        steps += graph_steps(ensemble_steps.held_back(recipe), "before", checkpoints[""], store)
        base = steps[-1].name
    if recipe.extras.ensemble:
        steps.append(ensemble_steps.choose_ensemble_step(recipe, checkpoints))
    if recipe.extras.tta:
        steps.append(ensemble_steps.choose_tta_step(recipe, registry.load("tasks", recipe.task).KIND, base))
    return steps


def student_steps(recipe: Recipe, graphs: Graphs, store: Store) -> list[Step]:
    """The answers of a teacher, the network that learns them, and its graph, which joins the bases."""
    table, line = recipe.extras.distill, ensemble_steps.STUDENT
    assert table
    teacher = graphs(graphs.fused.kinds[-1], FP32, "") if table.teacher == ENSEMBLE else ""
    made = ensemble_steps.student_steps(recipe, teacher, training_parts(recipe, store), store)
    made += graph_steps(recipe, line, made[-1].name, store)
    graphs.bases[line] = made[-1].name
    return made


@dataclass
class Graphs:
    """Which step makes the graph of a line in a precision and dialect; it joins `steps` when first asked for."""

    recipe: Recipe
    store: Store
    steps: list[Step]
    bases: dict[str, str]  # line -> the step of its fp32 graph
    fused: Fused
    made: dict[tuple[str, str, str], str] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)  # variant -> the step of its line's fp32 graph

    @property
    def forks(self) -> dict[str, Plugin]:
        found = {p.module.variant(p.options): p for p in self.recipe.passes}
        return {variant: step for variant, step in found.items() if variant}

    def __call__(self, line: str, precision: str, dialect: str) -> str:
        if precision == FP32 and line in self.bases:
            return self.bases[line]
        if (line, precision, dialect) not in self.made:
            if line in self.fused.kinds:
                parts = tuple(self(part, precision, dialect) for part in self.fused.parts(line))
                step = self.fused.step(line, precision, dialect, parts)
            else:
                name = f"optimize/{named(line, precision)}-{dialect}"
                step = pass_step(name, self.recipe, self.forks[precision], dialect, self.bases[line], self.store)
            self.steps.append(step)
            self.made[line, precision, dialect] = step.name
        return self.made[line, precision, dialect]


def fork_steps(graphs: Graphs) -> list[Engine]:
    """Append the passes that make variants, once a dialect; every engine that is to be built."""
    lines = [*(line for line in graphs.bases if line not in graphs.fused.lines[1:]), *graphs.fused.kinds]
    only, all_of = precisions_of(graphs.recipe), (FP32, *graphs.forks)
    made = {named(line, p): (line, p) for line in lines for p in all_of if p in only.get(line, all_of)}
    engines = []
    for target, variant in wanted(graphs, made):
        line, precision = made[variant]
        dialect = backends.dialect(target.backend.name, target.backend.options) if precision != FP32 else ""
        engines.append((target, variant, graphs(line, precision, dialect)))
        graphs.references[variant] = graphs(line, FP32, "")
    return engines


def wanted(graphs: Graphs, made: Mapping[str, tuple[str, str]]) -> list[tuple[Target, str]]:
    """(target, variant) in the recipe's order. A target that names no variants gets all that its backend takes.

    `made`: variant -> its line and precision. RecipeError for every variant that is named and can't be had.
    """
    recipe, found, problems = graphs.recipe, [], []
    for target in explore.targets(recipe):
        where = f"{recipe.path}: compile '{explore.family(target.name)}': variants"
        for variant in explore.every_line(recipe, target.variants, made) or made:
            if variant not in made:
                what = f"no pass of [optimize] makes '{variant}'; known here: {one_of(tuple(made))}"
                problems.append(Problem(where, what, nearest(variant, made)))
            elif reason := refused(graphs, target, *made[variant]):
                if target.variants:
                    problems.append(Problem(where, f"'{variant}': {reason}"))
            else:
                found.append((target, variant))
        if not any(target is t for t, _ in found) and not problems:
            problems.append(Problem(where, "its backend takes none of the variants that this recipe makes"))
    if problems:
        raise RecipeError(*dict.fromkeys(problems))
    return found


def unfit(recipe: Recipe) -> list[Problem]:
    """Ranges of targets that don't take the feeds they are judged with, on whatever machine that is."""
    views = recipe.extras.tta if registry.load("tasks", recipe.task).KIND == "text" else None
    tokens = (views.document_tokens or 0) if views else None
    return [
        Problem(f"{recipe.path}: compile '{target.name}': {found.where}", found.what)
        for target in recipe.targets
        for found in backends.unfit(target.backend.options, tokens)
    ]


def refused(graphs: Graphs, target: Target, line: str, precision: str) -> str:
    """Why the backend of `target` makes no engine of this line and precision; ''."""
    backend, kind = target.backend.name, registry.load("tasks", graphs.recipe.task).KIND
    step = graphs.forks.get(precision)
    judge = getattr(step.module, "refused", None) if step else None
    return backends.refuses(backend, precision, kind) or (str(judge(step.options, backend)) if judge and step else "")


def first_steps(recipe: Recipe, given: list[Step], store: Store) -> list[Step]:
    """data -> train, with what is `given` before it and the rounds that label further examples in between."""
    train = partial(train_step, recipe, store)
    rounds = pseudo_steps.steps(recipe, store, train, lambda line, made: export_step(recipe, line, made, store))
    return [
        data_step(recipe, store),
        *given,
        *features_steps(recipe, store),
        *rounds,
        train("train", pseudo_steps.labelled(recipe)),
    ]


def graph_steps(recipe: Recipe, line: str, checkpoint: str, store: Store) -> list[Step]:
    """export -> the passes that every target shares, for the networks of one line."""
    steps = [export_step(recipe, line, checkpoint, store)]
    for step in recipe.passes:
        if not step.module.variant(step.options):
            steps.append(pass_step(f"{BASE}{named(line, step.name)}", recipe, step, "", steps[-1].name, store))
    return steps
