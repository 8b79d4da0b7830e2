"""Graph passes, one a file: Graph -> Graph. The driver runs each and holds its result against the graph before it.

A pass is a module with
    Options, PACKAGES
    ON_BY_DEFAULT        whether it runs where the recipe does not name it
    variant(options)     '' where the pass improves the graph for everybody; else the name of the variant it makes
                         beside the base graph (int8, fp16, …), built once per Q/DQ dialect that a target asks for
    tolerance(options)   how far it may move the outputs; each node of a variant is held by itself as well, see _held.py
    apply(model, options, context, target)   reads the ONNX file `model`, writes the ONNX file `target`; a variant that
                         rewrites the graph in its old precision first leaves that graph as REFERENCE beside `target`
and, where it is not for everybody,
    refused(options, backend)   why that backend can't run the variant; ''
    held(options)        whether each node of the variant is held by itself; it is where this is not defined
    expected(model, options, feeds)   what a pass that is meant to change the answers shall answer: the same in Python
    signature_after(before, options)  what the graph takes and gives after a pass that changes it
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.artifacts import Feed, Graph, read_json, write_json
from tlcompile.recipe.tables import Plugin

if TYPE_CHECKING:
    import numpy as np

__all__ = ["REFERENCE", "Context", "run"]

REFERENCE = "reference.onnx"


@dataclass(frozen=True)
class Context:
    """What a pass may ask for: the Q/DQ dialect of its target, and fresh runs over the calibration examples.

    For a search: `validation` examples that no layer was trained on, the accuracy `drop` of other answers to them
    (fp32's, the others' -> drop, its upper confidence limit), the `margin` it must stay below, p50 `latency` in ms of a
    graph on the slowest of its targets, and `work`, a folder that survives a kill. Without them: the calibration
    examples, the share of changed answers, one point, no latency, and a search that begins anew.
    """

    dialect: str
    calibration: Callable[[], Iterator[Feed]]
    validation: Callable[[], Iterator[Feed]] | None = None
    drop: Callable[[np.ndarray, np.ndarray], tuple[float, float]] | None = None
    margin: float = 0.01
    latency: Callable[[Path], float] | None = None
    work: Path | None = None


def run(step: Plugin, graph: Graph, context: Context, folder: Path) -> None:
    """Fill `folder` with the graph after `step`. ParityError names the pass if it moved the outputs too far."""
    from tlcompile import parity, probes
    from tlcompile.optimize import _held
    from tlcompile.runtime import golden

    module = step.module
    module.apply(graph.model, step.options, context, folder / "model.onnx")
    for name in ("signature.json", "golden.npz", "tokenizer.json"):
        if (graph.folder / name).exists():
            shutil.copyfile(graph.folder / name, folder / name)
    if changed := getattr(module, "signature_after", None):
        write_json(folder / "signature.json", changed(graph.signature, step.options).to_json())
    feeds, _ = golden.load(graph.folder / "golden.npz")
    loop, after = getattr(module, "expected", None), parity.run_graph(folder / "model.onnx", feeds)
    before = loop(graph.model, step.options, feeds) if loop else parity.run_graph(graph.model, feeds)
    rungs = read_json(graph.folder / "parity.json")
    name = f"optimize/{step.name}" + (f" ({context.dialect})" if module.variant(step.options) else "")
    rung = parity.compare(name, rungs[-1]["rung"], after, before, module.tolerance(step.options), graph.signature)
    if module.variant(step.options) and not loop and getattr(module, "held", lambda _: True)(step.options):
        rounded_from = graph.model
        if (reference := folder / REFERENCE).exists():
            rewritten = parity.run_graph(reference, feeds)
            parity.check(parity.compare(name, rungs[-1]["rung"], rewritten, before, parity.SAME, graph.signature))
            rounded_from = reference
        corrected = bool(getattr(step.options, "bias_correction", False))
        _held.check(name, rounded_from, folder / "model.onnx", feeds, biases=not corrected)
        reference.unlink(missing_ok=True)
    write_json(folder / "parity.json", [*rungs, parity.check(rung).to_json()])
    if not module.variant(step.options) and not loop and (exact := probes.cut(feeds, graph.signature)):
        found, expected = (parity.run_graph(model, exact) for model in (folder / "model.onnx", graph.model))
        limit = parity.Tolerance(1.0, 0.0, rung.tolerance.logits)
        parity.check(
            parity.compare(f"{name} (exact pixels)", rungs[-1]["rung"], found, expected, limit, graph.signature)
        )
