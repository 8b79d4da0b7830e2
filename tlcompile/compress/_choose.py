"""Which channels go: a share of the cost -> what each axis keeps.

Global: blocks of channels leave in the order of importance lost per cost saved, everywhere at once (the greedy answer
to the knapsack of M. Shen et al., NeurIPS 2022, equation 4), costs being those of the network as it is by then. Per
layer: every axis loses the same share of its channels, its least important ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tlcompile.compress._axes import Axis
from tlcompile.compress._cost import Cost


@dataclass(frozen=True)
class Limits:
    """Channels stay in multiples of `round_to`; no axis loses more than `most` of its `whole` size, or its last block.

    `whole` are sizes before any pruning.
    """

    round_to: int
    most: float
    whole: Mapping[str, int]

    def block(self, axis: Axis) -> int:
        return self.round_to if axis.kind == "channels" else 1

    def least(self, axis: Axis) -> int:
        block = self.block(axis)
        kept = math.ceil(round(self.whole.get(axis.name, axis.size) * (1 - self.most), 6))
        return min(axis.size, max(block, -(-kept // block) * block))

    def next(self, axis: Axis, size: int) -> int:
        """Channels that go next from an axis of `size`; 0 where no more may."""
        block = self.block(axis)
        count = size % block or block
        return count if size - count >= self.least(axis) else 0


def choose(
    axes: Sequence[Axis], scores: Mapping[str, Tensor], cost: Cost, limits: Limits, share: float, scope: str
) -> dict[str, Tensor]:
    """The channels that each axis keeps when at least `share` of the cost goes, or all that may."""
    sizes = global_sizes if scope == "global" else layer_sizes
    found = sizes(axes, scores, cost, limits, share)
    order = {axis.name: scores[axis.name].argsort(descending=True, stable=True) for axis in axes}
    return {name: order[name][:size].sort().values for name, size in found.items()}


def global_sizes(
    axes: Sequence[Axis], scores: Mapping[str, Tensor], cost: Cost, limits: Limits, share: float
) -> dict[str, int]:
    sizes = {axis.name: axis.size for axis in axes}
    sums = {axis.name: [0.0, *scores[axis.name].sort().values.cumsum(0).tolist()] for axis in axes}
    shapes = cost.shapes_at({})
    left, goal = cost.total(shapes), (1 - share) * cost.total(shapes)
    worth: dict[str, float] = {}  # importance lost for a unit of cost when the next block of an axis goes
    stale = set(sizes)
    neighbours = _neighbours(axes)
    while left > goal or share >= 1:
        for name in stale:
            axis, gone = cost.axes[name], cost.axes[name].size - sizes[name]
            worth.pop(name, None)
            if count := limits.next(axis, sizes[name]):
                lost = sums[name][gone + count] - sums[name][gone]
                worth[name] = lost / max(cost.saved(shapes, axis, count), 1e-9)
        if not worth:
            break
        cheapest = min(worth, key=lambda name: (worth[name], name))
        count = limits.next(cost.axes[cheapest], sizes[cheapest])
        left -= cost.saved(shapes, cost.axes[cheapest], count)
        cost.take(shapes, cost.axes[cheapest], count)
        sizes[cheapest] -= count
        stale = neighbours[cheapest]
    return sizes


def _neighbours(axes: Sequence[Axis]) -> dict[str, set[str]]:
    """Axes that share a tensor with each axis, itself among them."""
    users: dict[str, set[str]] = {}
    for axis in axes:
        for member in axis.members:
            users.setdefault(member.tensor, set()).add(axis.name)
    return {axis.name: {axis.name}.union(*(users[m.tensor] for m in axis.members)) for axis in axes}


def layer_sizes(
    axes: Sequence[Axis], scores: Mapping[str, Tensor], cost: Cost, limits: Limits, share: float
) -> dict[str, int]:
    """The largest sizes, every axis losing the same share, that save `share` of the cost."""
    whole = cost.total(cost.shapes_at({}))
    for percent in range(101):
        sizes = {axis.name: _shrunk(axis, limits, percent / 100) for axis in axes}
        if share < 1 and cost.total(cost.shapes_at(sizes)) <= (1 - share) * whole:
            break
    return sizes


def _shrunk(axis: Axis, limits: Limits, share: float) -> int:
    size = axis.size
    while (count := limits.next(axis, size)) and size - count >= round(axis.size * (1 - share), 6):
        size -= count
    return size
