"""The step that times all engines of a build, in one interleaved run, on test examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import Engine, Feed, write_json
from tlcompile.pipeline.explore import skipped
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Recipe

if TYPE_CHECKING:
    from tlcompile.evaluate.latency import Own

EXAMPLES, CALLS = 200, 4
"""Test examples that engines are timed on where the time of one of them depends on the example, and calls of each."""


def latency(recipe: Recipe, engines: tuple[str, ...], made: Made, folder: Path, work: Path) -> None:
    """All engines that run here, in one interleaved run."""
    from tlcompile.data import Split
    from tlcompile.evaluate.latency import measure
    from tlcompile.pipeline.contenders import leaves_early

    built = (name for name in engines if not skipped(made[name]))
    opened = {name: Engine(made[name].folder, made[name].digest) for name in built}
    running = {name: engine.folder for name, engine in opened.items() if engine.info["runs_here"]}
    result: dict[str, Any] = {}
    if running:
        split, batch = Split(made["data"].folder, "test"), recipe.evaluate.batch_size
        example = typical(split)
        here = {name: opened[name] for name in running}
        single, several = [[example]], [[example] * batch]
        if any(leaves_early(engine.info["variant"]) for engine in opened.values()):
            count = min(EXAMPLES, recipe.evaluate.latency_runs // CALLS)
            single = [[split[i]] for i in evenly(len(split), count)]
            several = mixed(split, batch, count // batch) or several
        feeds = {1: read_by(here, single), batch: read_by(here, several)}
        result = measure(running, feeds, recipe.evaluate.latency_runs)
    write_json(folder / "latency.json", {"engines": result})


def read_by(engines: dict[str, Engine], asked: list[list[Any]]) -> Own:
    """The feeds of `asked`, each some examples, for every engine; those that read alike share theirs."""
    from tlcompile.evaluate.latency import Own
    from tlcompile.runtime.feeds import feeder

    known: dict[Any, list[Feed]] = {}
    for engine in engines.values():
        if engine.signature.spec not in known:
            feed = feeder(engine.signature, engine.folder)
            known[engine.signature.spec] = [feed(examples) for examples in asked]
    return Own({name: known[engine.signature.spec] for name, engine in engines.items()})


def mixed(split: Any, size: int, count: int) -> list[list[Any]]:
    """At most `count`, at least one batch of `size` test examples; none where fewer than `size` fit into one feed."""
    from tlcompile.runtime.feeds import batches

    full = [group for group in batches(split, size) if len(group) == size]
    return [[split[i] for i in full[k]] for k in evenly(len(full), max(1, count))] if full else []


def evenly(n: int, count: int) -> list[int]:
    """At most `count` different indices below `n`."""
    return sorted({i * n // count for i in range(count)})


def typical(split: Any) -> Any:
    """The example of median size (pixels, or bytes of text)."""
    import numpy as np

    sizes = split.shapes.astype(np.int64).prod(-1)
    return split[int(np.argsort(sizes, kind="stable")[len(sizes) // 2])]
