"""How long engines take, compared fairly.

Each engine runs in a process of its own. They take turns in rounds of short bursts, in a new random order each round,
so that a machine that slows down or speeds up does so for all of them; while one measures, the others are idle.
Google Benchmark found that interleaving takes 40 % off the variance between runs.

Times of one burst resemble each other more than times of different rounds, so the interval of the median is a bootstrap
over rounds, not over calls. A median whose interval is wider than 10 % of it is called noisy, in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tlcompile import progress
from tlcompile.errors import Problem, TlcompileError
from tlcompile.evaluate.isolate import EngineProcess

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed

BURST = 10  # timed calls of one engine in one round
_WARM_FIRST, _WARM_BURST = 10, 2  # calls before the first round, and before each burst
_NOISY = 0.10  # width of the interval relative to the median
_RUNS_FOR_P99 = 662  # MLPerf early stopping: 99 % confidence in a 99th percentile
_RESAMPLES, _BLOCK = 2000, 100  # in blocks, so that memory stays small for many calls
Middle = Callable[..., Any]  # np.median or np.mean


@dataclass(frozen=True)
class Own:
    """Feeds of each engine, by its name: engines may read the same examples in different ways."""

    feeds: dict[str, list[Feed]]


def measure(engines: dict[str, Path], feeds: Mapping[int, Feed | Own], runs: int, seed: int = 0) -> dict[str, Any]:
    """Latency of every engine on every feed, at least `runs` timed calls each, rounded up to whole bursts.

    `engines` is name -> engine folder, `feeds` batch size -> feed, or engine -> its own feeds. Of several feeds each
    is timed in turn, the same ones of all engines in a round: for engines whose time depends on the input. Returns
    name -> `load_s`, `rss_mib`, `threads`, `device` and `batches`: batch size as text -> what `summary` says, with
    `feed`, its shapes in words, and, where there were several, what `by_example` says.
    """
    if runs < 2 * BURST:
        raise TlcompileError(Problem("latency", f"found runs = {runs}, expected at least {2 * BURST}: two rounds"))
    rounds = math.ceil(runs / BURST)
    rng = np.random.default_rng(seed)
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        children = {name: stack.enter_context(EngineProcess(folder)) for name, folder in engines.items()}
        batches: dict[str, dict[str, Any]] = {name: {} for name in engines}
        for batch, feed in feeds.items():
            own = feed if isinstance(feed, Own) else Own({name: [feed] for name in engines})
            seconds = _rounds(children, batch, own, rounds, rng)
            for name, times in seconds.items():
                asked = own.feeds[name]
                several = by_example(times, len(asked)) if len(asked) > 1 else {}
                said = summary(times, batch, rng, "mean" if several else "median")
                batches[name][str(batch)] = {"feed": in_words(asked[0]), **several, **said}
        for name, child in children.items():
            known = child.info()
            results[name] = {
                "load_s": _round(known["load_s"]),
                "rss_mib": _round(known["rss_mib"]),
                "threads": known["threads"],
                "device": known["device"],
                "batches": batches[name],
            }
    return results


def times_as_long(engine: Path, other: Path, feed: Feed, rounds: int, seed: int = 0) -> float:
    """How many times as long as `other` `engine` takes on `feed`, each an engine folder, taking turns in `rounds`."""
    rng = np.random.default_rng(seed)
    with EngineProcess(engine) as one, EngineProcess(other) as two:
        seconds = _rounds({"one": one, "two": two}, 1, Own({"one": [feed], "two": [feed]}), rounds, rng)
    return by_round(seconds["one"], seconds["two"])


def by_round(one: np.ndarray, two: np.ndarray) -> float:
    """The median over rounds of the ratio of two bursts, one right after the other; seconds [rounds, BURST] of each.

    A burst is told by the quickest fifth of its calls, for what else runs on a machine only adds time. Two engines
    compared seven times on a busy one: standard deviation 5 %, by the medians of bursts 8 %.
    """
    quick = (np.percentile(seconds, 20, axis=1) for seconds in (one, two))
    return float(np.median(next(quick) / next(quick)))


def _rounds(
    children: dict[str, EngineProcess], batch: int, own: Own, rounds: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Seconds [rounds, BURST] of every engine on its feeds."""
    first = next(iter(children.values()))
    kept = {id(feed): first.keep(feed) for feed in {id(f): f for fs in own.feeds.values() for f in fs}.values()}
    paths = {name: [kept[id(feed)] for feed in own.feeds[name]] for name in children}
    for name, child in children.items():
        child.time(paths[name][0], warmup=_WARM_FIRST, runs=0)
    taken: dict[str, list[list[float]]] = {name: [] for name in children}
    names = list(children)
    for start in progress.track(range(0, rounds * BURST, BURST), f"latency, batch {batch}", rounds):
        for index in rng.permutation(len(names)):
            name = names[index]
            if len(paths[name]) == 1:
                taken[name].append(children[name].time(paths[name][0], warmup=_WARM_BURST, runs=BURST))
            else:
                asked = [paths[name][i % len(paths[name])] for i in range(start, start + BURST)]
                taken[name].append(children[name].time_each(asked, warmup=_WARM_BURST))
    return {name: np.array(times) for name, times in taken.items()}


def by_example(seconds: np.ndarray, count: int) -> dict[str, Any]:
    """`examples`, how many took turns in `seconds` [rounds, calls], and `examples_mean_ms`, their mean time.

    Of each example it is the median of its calls: a call that the machine interrupted is no property of the example.
    """
    calls = seconds.ravel() * 1000
    each = [float(np.median(calls[i::count])) for i in range(min(count, calls.size))]
    return {"examples": count, "examples_mean_ms": _round(float(np.mean(each)))}


def summary(
    seconds: np.ndarray, batch: int, rng: np.random.Generator, by: Literal["median", "mean"] = "median"
) -> dict[str, Any]:
    """Percentiles of `seconds` [rounds, calls], each call on `batch` examples.

    `noisy` and `p99_note` are sentences; `noisy` is empty where what engines are compared `by` can be relied on.
    """
    ms = seconds * 1000
    p50, p90, p99 = (float(p) for p in np.percentile(ms, [50, 90, 99]))
    low, high = _interval(ms, rng)
    middle: Middle = np.median if by == "median" else np.mean
    around = (low, high) if by == "median" else _interval(ms, rng, middle)
    half = len(ms) // 2
    halves = [float(middle(part)) for part in (ms[:half], ms[half:])]
    return {
        "p50_ms": _round(p50),
        "p50_interval_ms": [_round(low), _round(high)],
        "p90_ms": _round(p90),
        "p99_ms": _round(p99),
        "mean_ms": _round(float(ms.mean())),
        "max_ms": _round(float(ms.max())),
        "throughput_per_s": _round(batch * 1000 / float(ms.mean())),
        "n": int(ms.size),
        "warmup": _WARM_FIRST + _WARM_BURST * len(ms),
        **({"mean_interval_ms": [_round(v) for v in around]} if by == "mean" else {}),
        "noisy": _verdict(by, float(middle(ms)), *around, halves),
        "p99_note": _p99_note(ms.size),
    }


def _interval(ms: np.ndarray, rng: np.random.Generator, middle: Middle = np.median) -> tuple[float, float]:
    """95 % interval of the median, or of another `middle`, by a bootstrap over rounds."""
    medians = [
        middle(ms[rng.integers(0, len(ms), (_BLOCK, len(ms)))].reshape(_BLOCK, -1), axis=1)
        for _ in range(_RESAMPLES // _BLOCK)
    ]
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _verdict(by: str, middle: float, low: float, high: float, halves: list[float]) -> str:
    width, drift = (high - low) / middle, (halves[1] - halves[0]) / middle
    if width <= _NOISY:
        return ""
    return (
        f"too noisy to decide: the {by}'s 95 % interval is {width:.0%} wide and the second half of the rounds was "
        f"{abs(drift):.0%} {'slower' if drift > 0 else 'faster'} than the first"
    )


def _p99_note(calls: int) -> str:
    if calls >= _RUNS_FOR_P99:
        return f"from {calls} calls; {_RUNS_FOR_P99} are enough for 99 % confidence"
    missed = 0.99**calls
    return (
        f"an estimate from {calls} calls: with probability {missed:.0%} the true p99 is above even the slowest of "
        f"them; {_RUNS_FOR_P99} calls are needed for 99 % confidence"
    )


def in_words(feed: Feed) -> str:
    """`image uint8 1x224x224x3`"""
    return ", ".join(f"{name} {value.dtype} {'x'.join(map(str, value.shape))}" for name, value in feed.items())


def _round(value: float) -> float:
    """To 4 significant digits."""
    return float(f"{value:.4g}")
