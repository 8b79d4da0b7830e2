"""The golden feeds: a few held-out examples as they come, with what torch says of each.

Taken from the validation split, spread over its classes, so that the test split stays unseen until `evaluate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import Feed
from tlcompile.runtime.feeds import Example, Feeder, batches

if TYPE_CHECKING:
    from tlcompile.data._split import Split

COUNT = 32
MAX_SIDE = 512  # larger photos are cut to a corner of this many pixels, so that a bundle stays small


def choose(strata: np.ndarray, count: int = COUNT) -> list[int]:
    """`count` indices that go round the classes (or other strata) in order; deterministic."""
    by_class = [np.flatnonzero(strata == c) for c in np.unique(strata)]
    rounds = [int(group[i]) for i in range(max(map(len, by_class))) for group in by_class if i < len(group)]
    return rounds[:count]


def examples(split: Split, indices: list[int]) -> list[Example]:
    found: list[Example] = [split[i] for i in indices]
    return [e if isinstance(e, str) else np.ascontiguousarray(e[:MAX_SIDE, :MAX_SIDE]) for e in found]


def feeds(chosen: list[Example], feeder: Feeder) -> tuple[list[Feed], list[int]]:
    """(feeds of at most 8 examples of one shape, the order of `chosen` in them)."""
    groups = list(batches(chosen, 8))
    return [feeder([chosen[i] for i in group]) for group in groups], [i for group in groups for i in group]
