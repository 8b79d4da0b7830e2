"""Which variant of a target ships: a technique must pay or be dropped.

A variant is eligible if it is not shown to be worse than the recipe allows; of the eligible ones the fastest ships (the
smallest, where speed could not be measured). fp32 is always there to fall back on. Every variant gets a sentence.

Variants that are meant to be better, not faster (views, ensembles, soups, students) have to show it. The fastest
eligible one of each kind is a contender. From the cheapest on, a contender takes the place of what would ship if it is
within the budget and answers more examples right than the best single network and than what would ship, with a
p < ALPHA that is divided by the number of contenders within the budget (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tlcompile.evaluate.statistics import Drop, MeanDrop, paired_drop

DEFAULT_MARGIN = 0.01
"""Largest accuracy drop of a variant where the recipe sets no `max_accuracy_drop`: one point, as measured."""
ALPHA = 0.05


@dataclass(frozen=True)
class Candidate:
    """A measured engine. `p50_ms` is None where it can't run here.

    `kind` is what it is meant to be better by (`tta`, `ensemble`, …), '' of an ordinary variant. `scores` [n] are those
    of the test examples, bool or float. `fails`: which other gate it fails, where one choice is made by all gates.
    """

    variant: str
    drop: Drop | MeanDrop
    p50_ms: float | None
    size_mb: float
    kind: str = ""
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, bool), compare=False, repr=False)
    fails: str = ""
    mean_ms: float | None = None  # over test examples, where the time of an engine depends on the example

    @property
    def cost(self) -> float:
        if self.mean_ms is not None:
            return self.mean_ms
        return self.size_mb if self.p50_ms is None else self.p50_ms

    @property
    def shown_cost(self) -> str:
        return f"{self.size_mb:.3g} MB" if self.p50_ms is None else f"{self.cost:.3g} ms"


@dataclass(frozen=True)
class Budget:
    """What a contender may cost: milliseconds at batch 1, and times the cost of what would ship without it.

    `single` are the scores [n] of the best single network on the same examples.
    """

    single: np.ndarray
    max_p50_ms: float | None = None
    slowdown: Mapping[str, float] = field(default_factory=dict)  # by kind


def choose(candidates: list[Candidate], margin: float | None, budget: Budget | None = None) -> tuple[int, list[str]]:
    """(index of the one that ships, a sentence for each). `margin` is the recipe's `max_accuracy_drop`."""
    ordinary = [i for i, c in enumerate(candidates) if not c.kind] or list(range(len(candidates)))
    eligible = [_eligible(c, margin) for c in candidates]
    within = [i for i in ordinary if eligible[i]] or [min(ordinary, key=lambda i: candidates[i].drop.drop)]
    pool = [i for i in within if not candidates[i].fails] or within
    best = min(pool, key=lambda i: candidates[i].cost)
    told = {i: _why(candidates[i], eligible[i], i == best, candidates[best]) for i in ordinary}
    if budget:
        told = {**_slower_of_a_kind(candidates, eligible), **told}
        best = _contend(candidates, [i for i in range(len(candidates)) if i not in told], best, budget, told)
    return best, [told[i] for i in range(len(candidates))]


def _slower_of_a_kind(candidates: list[Candidate], eligible: list[bool]) -> dict[int, str]:
    """A sentence for each that is meant to be better but is not the fastest eligible one of its kind."""
    told: dict[int, str] = {}
    for kind in {c.kind for c in candidates if c.kind}:
        each = [i for i, c in enumerate(candidates) if c.kind == kind]
        fit = [i for i in each if eligible[i]]
        first = min(fit or each, key=lambda i: candidates[i].cost)
        others = [i for i in each if i != first or not fit]
        told |= {i: _why(candidates[i], eligible[i], False, candidates[first]) for i in others}
    return told


def _contend(
    candidates: list[Candidate], contenders: list[int], best: int, budget: Budget, told: dict[int, str]
) -> int:
    """The one that ships after all contenders; their sentences, and those of what they replace, go into `told`."""
    start = best
    told |= {i: reason for i in contenders if (reason := _refused(candidates[i], candidates[start], budget))}
    contenders = [i for i in contenders if i not in told]
    for i in sorted(contenders, key=lambda i: candidates[i].cost):
        one = candidates[i]
        rivals = {"the best single network": budget.single}
        if best != start:
            rivals[candidates[best].variant] = candidates[best].scores
        gains = {name: paired_drop(rival, one.scores, ALPHA) for name, rival in rivals.items()}
        name, gain = min(gains.items(), key=lambda pair: _shown(pair[1], len(contenders)))
        if not _shown(gain, len(contenders)):
            told[i] = f"dropped: not shown to be better than {name}: {_counted(gain)}"
        else:
            times = _times(one, candidates[start])
            told[best] = f"dropped: {one.variant} is shown to be better within the budget"
            told[i] = f"ships: better than {name} by {-100 * gain.drop:.2f} points: {_counted(gain)}, {times}"
            best = i
    return best


def _shown(gain: Drop | MeanDrop, contenders: int) -> bool:
    return gain.drop < 0 and gain.p_different < ALPHA / contenders


def _counted(gain: Drop | MeanDrop) -> str:
    return f"{gain.c} corrected, {gain.b} corrupted of {gain.n}, p = {gain.p_different:.2g}"


def _times(one: Candidate, first: Candidate) -> str:
    what = "size" if one.p50_ms is None else "time"
    return f"at {one.cost / first.cost:.2f} times the {what} of {first.variant}"


def _refused(one: Candidate, first: Candidate, budget: Budget) -> str:
    most, limit = budget.slowdown.get(one.kind), budget.max_p50_ms
    if one.fails:
        return f"dropped: {one.fails}"
    if limit is not None and one.p50_ms is not None and one.p50_ms > limit:
        return f"dropped: {one.p50_ms:.3g} ms, the gate allows {limit:.3g} ms"
    if most is not None and one.cost > most * first.cost:
        return f"dropped: too slow, {_times(one, first)}, {most:g} are allowed"
    return ""


def _eligible(candidate: Candidate, margin: float | None) -> bool:
    if candidate.drop.b == candidate.drop.c == 0:
        return True  # answers every example like the reference: nothing can be better founded
    return candidate.drop.upper < margin if margin is not None else candidate.drop.drop <= DEFAULT_MARGIN


def _why(candidate: Candidate, eligible: bool, chosen: bool, best: Candidate) -> str:
    measured = "smallest" if candidate.p50_ms is None else "fastest"
    if chosen:
        return (
            f"ships: the {measured} within the allowed accuracy drop"
            if eligible
            else "ships: the most accurate; none is within the allowed drop"
        )
    if not eligible:
        return (
            f"dropped: its accuracy drop of {100 * candidate.drop.drop:.2f} points is not shown to be within the margin"
        )
    if candidate.fails:
        return f"dropped: {candidate.fails}"
    return f"dropped: does not pay, {candidate.shown_cost} against {best.shown_cost}"
