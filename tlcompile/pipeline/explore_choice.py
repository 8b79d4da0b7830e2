"""Which of all explored engines ships: the fastest that passes every gate, with the risk of a false pass shared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tlcompile import registry
from tlcompile.errors import GateError, Problem
from tlcompile.evaluate.gates import Measured, judge
from tlcompile.evaluate.statistics import Drop, MeanDrop
from tlcompile.pipeline.choose import Candidate
from tlcompile.pipeline.explore import family, links, skipped, speedups
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Recipe
from tlcompile.report.scatter import frontier

Measurement = tuple[dict[str, Any], Drop | MeanDrop, Candidate]  # row of the variants table, drop, what is compared
DROP = "max_accuracy_drop"


def found(recipe: Recipe, measurement: Measurement) -> Measured:
    """What gates look at."""
    row, drop, candidate = measurement
    batch_1 = row["latency"].get("batch_1", {})
    metric = registry.load("tasks", recipe.task).METRIC
    times, resident = (batch_1.get("p50_ms"), batch_1.get("p99_ms")), row.get("rss_mib")
    memory = None if resident is None else resident * 2**20 / 1e6
    return Measured(row["accuracy"], drop, *times, candidate.size_mb, metric, memory)


def contest(recipe: Recipe, measured: list[Measurement]) -> list[Measurement]:
    """`measured` for one choice among targets by all gates; as it is where the recipe does not explore."""
    if not recipe.explore:
        return measured
    if not measured:
        what = "no engine is left: of the variants that targets name all were rejected or not tried"
        raise GateError(Problem("optimize.explore", f"{what}; name 'fp32' too"))
    margin = recipe.gates.max_accuracy_drop
    if margin is not None:
        measured = shared_risk(measured, margin)
    best = frontier([point for m in measured if (point := _point(m[0]))])
    for row, drop, _ in measured:
        row |= {"frontier": _point(row) in best, "drop_upper": drop.upper}
    return [(row, drop, _candidate(recipe, (row, drop, one))) for row, drop, one in measured]


def _candidate(recipe: Recipe, measurement: Measurement) -> Candidate:
    row, drop, candidate = measurement
    missed = [v for v in judge(recipe.gates, found(recipe, measurement), "") if not v.passed and v.gate != DROP]
    fails = "; ".join(f"{v.why}, the gate {v.gate} is {v.limit:g}" for v in missed)
    return replace(candidate, variant=f"{row['target']}/{row['variant']}", drop=drop, fails=fails)


def _point(row: dict[str, Any]) -> tuple[float, float] | None:
    p50 = row["latency"].get("batch_1", {}).get("p50_ms")
    return None if p50 is None else (p50, row["accuracy"])


def shared_risk(measured: list[Measurement], margin: float) -> list[Measurement]:
    """Each drop with its share of the risk of a false pass, so that all claims hold together with the risk of one.

    S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6 (1979) 65-70: of k claims
    each is tested at alpha / k, those that are left at alpha over how many are left, until none is shown any more. The
    same graph in the same runtime with other threads is one claim.
    """
    left = dict(enumerate(measured))
    shared = list(measured)
    shown: list[int] = [-1]
    while left and shown:
        claims = len({(family(row["target"]), row["variant"]) for row, _, _ in left.values()})
        for i, (row, drop, one) in left.items():
            shared[i] = row, replace(drop, alpha=measured[i][1].alpha / claims), one
        shown = [i for i in left if shared[i][1].upper < margin]
        left = {i: m for i, m in left.items() if i not in shown}
    return shared


def bundled(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of the report with the recipe's names of targets: devices ask for `openvino`, whatever its threads."""
    named = {key: [{**row, "target": family(row["target"])} for row in facts[key]] for key in ("variants", "gates")}
    return {**facts, **named}


def facts(recipe: Recipe, made: Made) -> dict[str, Any]:
    """What was explored, what of it was rejected or not tried, and why; {} where the recipe does not explore."""
    if not recipe.explore:
        return {}
    roots = {link.name: line for line, link in links(recipe).items() if link.speedup}
    left_out = [
        {"line": roots[name], "verdict": why["verdict"], "why": why["why"]}
        for name in roots
        if (why := skipped(made[name]))
    ]
    table = recipe.explore.model_dump(mode="json")
    return {**table, "speedups": list(speedups(recipe)), "left_out": left_out}
