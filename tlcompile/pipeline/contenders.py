"""What the choice among variants knows of `[ensemble]`, `[tta]` and `[distill]`: kinds, budget, who is to be beaten."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlcompile.artifacts import Labels, read_json
from tlcompile.evaluate.figures import scores
from tlcompile.pipeline.choose import Budget
from tlcompile.pipeline.ensemble_steps import BOTH, CHOOSE, ENSEMBLE, SOUP, STUDENT, TTA
from tlcompile.pipeline.ensembles import CHOICE
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Recipe

KINDS = (BOTH, ENSEMBLE, TTA, SOUP, STUDENT)  # the longest of names that begin alike first


def kind_of(variant: str) -> str:
    """What a variant is meant to be better by; '' of those that are meant to be as good and faster."""
    return next((kind for kind in KINDS if variant.startswith(f"{kind}-")), "")


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
    return [f"{what[name]}: kept {', '.join(choice['kept'])}; {_why(choice)}" for name, choice in found.items()]


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
        slowdown[TTA] = slowdown[BOTH] = extras.tta.max_slowdown
    if extras.ensemble:
        slowdown[ENSEMBLE] = extras.ensemble.table.max_slowdown
        slowdown[BOTH] = max(slowdown.get(BOTH, 0.0), extras.ensemble.table.max_slowdown)
        best = read_json(made[CHOOSE + ENSEMBLE].folder / CHOICE)["best"]
        step = made.get(f"train/member-{best + 1}") if best else None
        if step:  # a bundle has no reference on the test examples
            with np.load(step.folder / "reference.npz", allow_pickle=False) as reference:
                single = scores(reference["test_logits"], reference["test_labels"], labels, threshold=0.0)
    return Budget(single, recipe.gates.max_latency_p50_ms, slowdown)
