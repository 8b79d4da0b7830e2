"""Engines timed in turns, so that what slows the machine down slows all of them; ratios are those of one round."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tlcompile import progress
from tlcompile.artifacts import Feed
from tlcompile.evaluate.isolate import EngineProcess

Reduce = Callable[..., np.ndarray]
_RESAMPLES = 2000


def take_turns(engines: dict[str, Path], bursts: list[list[Feed]], warm: int, runs: int) -> dict[str, np.ndarray]:
    """Milliseconds [rounds, calls] of each engine, every one in a process of its own.

    In a round each engine, in a new random order, gets the burst of that round: all its feeds one after the other,
    `runs` timed calls of each after `warm` calls that are not counted. The first burst is run once before the rounds.
    """
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        children = {name: stack.enter_context(EngineProcess(folder)) for name, folder in engines.items()}
        kept: dict[tuple[str, int], Path] = {}

        def burst(name: str, feeds: list[Feed]) -> list[float]:
            taken: list[float] = []
            for feed in feeds:
                key = (name, id(feed))
                kept[key] = path = kept.get(key) or children[name].keep(feed)
                taken += children[name].time(path, warmup=warm, runs=runs)
            return taken

        for name in children:
            burst(name, bursts[0])
        taken: dict[str, list[list[float]]] = {name: [] for name in children}
        for feeds in progress.track(bursts, "latency", len(bursts)):
            for index in rng.permutation(len(children)):
                name = list(children)[index]
                taken[name].append(burst(name, feeds))
    return {name: 1000 * np.array(rows) for name, rows in taken.items()}


def ratio(slow: np.ndarray, quick: np.ndarray, reduce: Reduce = np.median) -> tuple[float, list[float]]:
    """(median over rounds of slow / quick, its 95 % bootstrap interval over rounds); `reduce` sums up one round."""
    ratios = reduce(slow, axis=1) / reduce(quick, axis=1)
    rng = np.random.default_rng(0)
    medians = np.median(ratios[rng.integers(0, len(ratios), (_RESAMPLES, len(ratios)))], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return round(float(np.median(ratios)), 3), [round(float(low), 3), round(float(high), 3)]


def summary(taken: np.ndarray) -> dict[str, Any]:
    """Percentiles of all calls, in milliseconds."""
    p10, p50, p90 = (round(float(p), 3) for p in np.percentile(taken, [10, 50, 90]))
    return {"p50_ms": p50, "p10_ms": p10, "p90_ms": p90, "n": int(taken.size)}
