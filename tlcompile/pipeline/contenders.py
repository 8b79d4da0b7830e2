"""What the choice among variants knows of `[ensemble]`, `[tta]` and `[distill]`: kinds, budget, who is to be beaten."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlcompile import compile as backends
from tlcompile.artifacts import Labels, read_json
from tlcompile.evaluate.figures import scores
from tlcompile.pipeline.choose import Budget
from tlcompile.pipeline.ensemble_steps import BOTH, CHOOSE, ENSEMBLE, EXIT, SOUP, STUDENT, TTA, exits
from tlcompile.pipeline.ensembles import CHOICE
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Recipe

KINDS = (BOTH, ENSEMBLE + EXIT, ENSEMBLE, TTA + EXIT, TTA, SOUP, STUDENT)  # the longest of names that begin alike first

PLAIN = ("identity", "head", "train")
"""First voices that are the network as trained, which is an engine of its own."""


def kind_of(variant: str) -> str:
    """What a variant is meant to be better by; '' of those that are meant to be as good and faster."""
    return next((kind for kind in KINDS if variant.startswith(f"{kind}-")), "")


def leaves_early(variant: str) -> bool:
    """Whether the time of an engine of this variant depends on the example."""
    return kind_of(variant).endswith(EXIT)


def mean_of(row: dict[str, Any]) -> float | None:
    """Mean milliseconds of an engine over test examples, where it was timed on several."""
    single = row["latency"].get("batch_1", {})
    found: float | None = single.get("examples_mean_ms")
    return found


def in_two(recipe: Recipe) -> list[str]:
    """A sentence for each target whose variants that leave early are two engines."""
    found = [t.name for t in recipe.targets if exits(recipe) and backends.splits(t.backend.name, t.backend.options)]
    what = "leaves early as two engines: the second answers those examples of a batch that the first is not sure of"
    return [f"{name}: {what}" for name in found]


def early_exits(rows: list[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
    """The curve of each engine that may leave early, for the report: accuracy and share are of validation examples.

    `mean_ms` of a row of the curve is what the engines of the first voice alone and of all voices took on the same test
    examples, by the share that leaves; None where there is no engine of the first voice alone.
    """
    times = {(row["target"], row["variant"]): mean_of(row) for row in rows}
    made = []
    for row in (row for row in rows if leaves_early(row["variant"])):
        kind = kind_of(row["variant"])
        choice, precision = found[kind.removesuffix(EXIT)], row["variant"].removeprefix(f"{kind}-")
        if not (leave := choice.get("exit")):
            continue
        plain = choice["kept"][0] in PLAIN
        first = times.get((row["target"], precision)) if plain else None
        every = times.get((row["target"], f"{kind.removesuffix(EXIT)}-{precision}"))
        curve = [{**point, "mean_ms": _between(first, every, point["left"])} for point in leave["curve"]]
        single = {key: row["latency"].get("batch_1", {}).get(key) for key in ("p99_ms", "examples")}
        taken = {"mean_ms": mean_of(row), "first_ms": first, "all_ms": every}
        own = {"engine": row["engine"], "accuracy": row["accuracy"], **single, **taken}
        made.append({**own, "threshold": leave["threshold"], "left": leave["left"], "curve": curve})
    return made


def _between(first: float | None, every: float | None, left: float) -> float | None:
    """Mean time where the share `left` takes `first` and the others take `every`."""
    return None if first is None or every is None else left * first + (1 - left) * every


def choices(made: Made) -> dict[str, Any]:
    """What was selected on validation examples: `tta`, `ensemble` -> the content of choice.json."""
    return {
        name.removeprefix(CHOOSE): read_json(entry.folder / CHOICE)
        for name, entry in made.items()
        if name.startswith(CHOOSE)
    }


def told(found: dict[str, Any]) -> list[str]:
    """What was kept of the views and members, one sentence each."""
    what = {TTA: "views", ENSEMBLE: "members"}
    kept = [f"{what[name]}: kept {', '.join(choice['kept'])}; {_why(choice)}" for name, choice in found.items()]
    return [*kept, *(_leaves(what[name], choice["exit"]) for name, choice in found.items() if choice.get("exit"))]


def _leaves(what: str, leave: dict[str, Any]) -> str:
    if leave["threshold"] is None:
        return f"early exit of {what}: from no confidence on is the first shown to be as good as all; all answer always"
    point = next(point for point in leave["curve"] if point["threshold"] == leave["threshold"])
    return (
        f"early exit of {what}: the first answers alone where it is at least {leave['threshold']:.4g} sure, "
        f"{leave['left']:.0%} of val; {point['score']:.4f} against {leave['curve'][0]['score']:.4f} of all"
    )


def _why(choice: dict[str, Any]) -> str:
    account = choice["account"]
    counted = f"{account['corrected']} corrected, {account['corrupted']} corrupted of {account['n']}"
    left = [row["name"] for row in choice["tried"] if not row["kept"]]
    note = f"; {choice['note']}" if "note" in choice else ""
    rest = f"; not shown to help: {', '.join(left)}" if left else ""
    return f"{choice['before']:.4f} before, {choice['after']:.4f} with them out of fold on val ({counted}){rest}{note}"


def budget(recipe: Recipe, made: Made, single: np.ndarray, labels: Labels) -> Budget | None:
    """None where the recipe asks for nothing that is better and slower.

    `single` are the test scores of the network as trained, fp32 in torch. Where another member was better on validation
    examples, its scores are the ones to beat.
    """
    extras = recipe.extras
    if not (extras.tta or extras.ensemble or extras.distill):
        return None
    slowdown = {}
    if extras.tta:
        slowdown[TTA] = slowdown[TTA + EXIT] = slowdown[BOTH] = extras.tta.max_slowdown
    if extras.ensemble:
        slowdown[ENSEMBLE] = slowdown[ENSEMBLE + EXIT] = extras.ensemble.table.max_slowdown
        slowdown[BOTH] = max(slowdown.get(BOTH, 0.0), extras.ensemble.table.max_slowdown)
        best = read_json(made[CHOOSE + ENSEMBLE].folder / CHOICE)["best"]
        step = made.get(f"train/member-{best + 1}") if best else None
        if step:  # a bundle has no reference on the test examples
            with np.load(step.folder / "reference.npz", allow_pickle=False) as reference:
                single = scores(reference["test_logits"], reference["test_labels"], labels, threshold=0.0)
    return Budget(single, recipe.gates.max_latency_p50_ms, slowdown)
