"""Graph passes, one a file: Graph -> Graph. The driver runs each and holds its result against the graph before it.

A pass is a module with
    Options, PACKAGES
    ON_BY_DEFAULT        whether it runs where the recipe does not name it
    variant(options)     '' where the pass improves the graph for everybody; else the name of the variant it makes
                         beside the base graph (int8, fp16, …), built once per Q/DQ dialect that a target asks for
    tolerance(options)   how far it may move the outputs
    apply(model, options, context, target)   reads the ONNX file `model`, writes the ONNX file `target`
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tlcompile.artifacts import Feed, Graph, read_json, write_json
from tlcompile.recipe.tables import Plugin

__all__ = ["Context", "run"]


@dataclass(frozen=True)
class Context:
    """What a pass may ask for: the Q/DQ dialect of its target, and fresh runs over the calibration examples."""

    dialect: str
    calibration: Callable[[], Iterator[Feed]]


def run(step: Plugin, graph: Graph, context: Context, folder: Path) -> None:
    """Fill `folder` with the graph after `step`. ParityError names the pass if it moved the outputs too far."""
    from tlcompile import parity
    from tlcompile.runtime import golden

    module = step.module
    module.apply(graph.model, step.options, context, folder / "model.onnx")
    for name in ("signature.json", "golden.npz", "tokenizer.json"):
        if (graph.folder / name).exists():
            shutil.copyfile(graph.folder / name, folder / name)
    feeds, _ = golden.load(graph.folder / "golden.npz")
    before, after = (parity.run_graph(place / "model.onnx", feeds) for place in (graph.folder, folder))
    rungs = read_json(graph.folder / "parity.json")
    name = f"optimize/{step.name}" + (f" ({context.dialect})" if module.variant(step.options) else "")
    rung = parity.compare(name, rungs[-1]["rung"], after, before, module.tolerance(step.options), graph.signature)
    write_json(folder / "parity.json", [*rungs, parity.check(rung).to_json()])
