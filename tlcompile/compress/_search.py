"""How much to cut for a speedup: found by measuring cut networks on the target, untrained, for latency depends on the
structure alone. Measurements are kept in a file by structure, so a killed search goes on where it was.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlcompile import progress
from tlcompile.artifacts import write_json
from tlcompile.compress._axes import Axis, cut, example, silenced
from tlcompile.compress._cost import Cost
from tlcompile.errors import GateError, Problem, RecipeError, TlcompileError, nearest, one_of
from tlcompile.fingerprint import text_digest
from tlcompile.models import _structure
from tlcompile.models._network import Network

CLOSE = 1.04
"""A speedup up to this many times the one asked for ends the search."""
TRIES = 8
FINE = 0.01
"""Shares of the cost that differ by less are not told apart: blocks of channels are coarser."""
LEAST_RATE = 0.25
"""No resolution counts less than this share of the mean: a measurement may be off, no layer is free."""
FAINT = 0.02
"""Of the cost: a resolution whose half width saves less is not rated, for noise over so little would be any rate."""


@dataclass
class Stopwatch:
    """Milliseconds of networks on one engine, each structure measured once. `engine` '' = the fastest at first."""

    latency: Callable[[Network, str], dict[str, float]]
    file: Path
    engine: str = ""
    known: dict[str, dict[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.known = json.loads(self.file.read_text()) if self.file.exists() else {}

    def __call__(self, network: Network) -> float:
        shapes = {name: list(value.shape) for name, value in network.module.state_dict().items()}
        key = text_digest(json.dumps(shapes))
        if key not in self.known:
            self.known[key] = self.latency(network, self.engine)
            write_json(self.file, self.known)
        found = self.known[key]
        if not found:
            raise TlcompileError(Problem("compress.prune", "no target runs on this machine: there is nothing to time"))
        if not self.engine:
            self.engine = min(found, key=lambda name: found[name])
        if self.engine not in found:
            what = f"no engine '{self.engine}' runs here, only {one_of(found)}"
            raise RecipeError(Problem("compress.prune.target", what, nearest(self.engine, found)))
        return found[self.engine]


def pruned(network: Network, axes: Sequence[Axis], kept: Mapping[str, Tensor], check: bool = False) -> Network:
    """A copy of `network` cut down to `kept`.

    With `check` TlcompileError where it does not answer like the whole network with silent channels: then what goes
    together was not understood.
    """
    state = network.module.state_dict()
    smaller = replace(network, module=copy.deepcopy(network.module))
    _load(smaller, cut(state, axes, kept))
    if check:
        silent = replace(network, module=copy.deepcopy(network.module))
        silent.module.load_state_dict(silenced(state, axes, kept))
        if not _equal(smaller, silent):
            what = "this network can't be cut: it answers otherwise than with the same channels silent"
            raise TlcompileError(Problem("compress.prune", what))
    return smaller


def _equal(a: Network, b: Network) -> bool:
    """Whether two networks answer the same, but for the order of sums."""
    try:
        with torch.inference_mode():
            here, there = (n.module.eval()(*example(n)) for n in (a, b))
    except RuntimeError:  # shapes that do not fit
        return False
    return torch.allclose(here, there, rtol=1e-3, atol=1e-3 * max(1.0, float(there.abs().max())))


def _load(network: Network, state: Mapping[str, Tensor]) -> None:
    _structure.adopt(network.module, state)
    network.module.load_state_dict(state)
    network.module.eval()


def rates(network: Network, axes: Sequence[Axis], cost: Cost, time: Stopwatch) -> dict[int, float]:
    """What each resolution really costs, over what `cost` says: halve its axes, see what that saves on the engine.

    Those too small to be measured have the mean rate. Empty where there is but one that is not.
    """
    whole = cost.total(cost.shapes_at({}))
    halves: dict[int, dict[str, Tensor]] = {}
    for axis in axes:
        halves.setdefault(cost.resolution(axis), {})[axis.name] = torch.arange(max(1, axis.size // 2))
    shares = {p: 1 - cost.total(cost.shapes_at({a: len(k) for a, k in h.items()})) / whole for p, h in halves.items()}
    clear = [places for places, share in shares.items() if share >= FAINT]
    if len(clear) < 2:
        return {}
    before, found = time(network), {}
    for places in clear:
        saved = before - time(pruned(network, axes, halves[places]))
        found[places] = max(saved / before / shares[places], LEAST_RATE)
        progress.say(f"  prune: half the width at {places} places saves {saved:.2f} of {before:.2f} ms")
    mean = sum(found.values()) / len(found)
    return {places: found.get(places, mean) for places in halves}


def search(
    goal: float, structure: Callable[[float], Mapping[str, Tensor]], run: Callable[[Mapping[str, Tensor]], float]
) -> tuple[Mapping[str, Tensor], list[dict[str, Any]]]:
    """(what is kept, the curve): the smallest share of the cost whose cut runs within `goal` ms.

    `structure` is what is kept at a share, `run` the milliseconds of that. False position with a guard: the time falls
    nearly evenly with the share. GateError with the best that can be reached where that is slower than `goal`.
    """
    curve: list[dict[str, Any]] = []

    def measure(share: float) -> float:
        kept = structure(share)
        ms = run(kept)
        curve.append({"share_asked": round(share, 4), "ms": ms})
        progress.say(f"  prune: {share:.1%} of the cost to go: {ms:.2f} ms, {goal:.2f} wanted")
        return ms

    low, slow = 0.0, measure(0.0)
    high, fast = 1.0, measure(1.0)
    if slow <= goal:
        return structure(0.0), curve
    if fast > goal:
        raise Unreachable(slow / fast)
    for _ in range(TRIES):
        if goal / fast <= CLOSE or high - low < FINE:
            break
        guess = low + (high - low) * (slow - goal) / (slow - fast)
        guess = min(max(guess, low + 0.1 * (high - low)), high - 0.1 * (high - low))
        ms = measure(guess)
        if ms <= goal:
            high, fast = guess, ms
        else:
            low, slow = guess, ms
    return structure(high), curve


class Unreachable(GateError):
    """`best`: the speedup of the smallest network that may be made, over the one before."""

    def __init__(self, best: float) -> None:
        self.best = best
        super().__init__(Problem("compress.prune.speedup", f"can't be reached: the best is {best:.2f}"))
