"""Which variant of a target ships: a technique must pay or be dropped.

A variant is eligible if it is not shown to be worse than the recipe allows; of the eligible ones the fastest ships (the
smallest, where speed could not be measured). fp32 is always there to fall back on. Every variant gets a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlcompile.evaluate.statistics import Drop, MeanDrop

DEFAULT_MARGIN = 0.01
"""Largest accuracy drop of a variant where the recipe sets no `max_accuracy_drop`: one point, as measured."""


@dataclass(frozen=True)
class Candidate:
    """A measured engine. `p50_ms` is None where it can't run here."""

    variant: str
    drop: Drop | MeanDrop
    p50_ms: float | None
    size_mb: float

    @property
    def cost(self) -> float:
        return self.size_mb if self.p50_ms is None else self.p50_ms

    @property
    def shown_cost(self) -> str:
        return f"{self.size_mb:.3g} MB" if self.p50_ms is None else f"{self.p50_ms:.3g} ms"


def choose(candidates: list[Candidate], margin: float | None) -> tuple[int, list[str]]:
    """(index of the one that ships, a sentence for each). `margin` is the recipe's `max_accuracy_drop`."""
    eligible = [_eligible(c, margin) for c in candidates]
    pool = [i for i, ok in enumerate(eligible) if ok] or [
        min(range(len(candidates)), key=lambda i: candidates[i].drop.drop)
    ]
    best = min(pool, key=lambda i: candidates[i].cost)
    return best, [
        _why(c, ok, i == best, candidates[best]) for i, (c, ok) in enumerate(zip(candidates, eligible, strict=True))
    ]


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
    return f"dropped: does not pay, {candidate.shown_cost} against {best.shown_cost}"
