"""An early exit as two engines: the first voice answers every example, the others those that it is not sure of.

For backends that run no branches of a graph, and where `early_exit = "split"` asks for it: a graph with a branch enters
it with the whole batch as soon as one example is not sure, two engines save time for every example that is. What an
example is answered is the same either way.

The engine folder holds both engines, `first` and `rest`, and the graph's `exit.json`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile.artifacts import EXIT_FILE, FIRST_VOICE, Graph, Runner, Signature, read_json, write_json
from tlcompile.confidence import confidence
from tlcompile.errors import BackendMissing, Problem

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed

FIRST, REST = "first", "rest"


def build(graph: Graph, make: Callable[[Graph, Path], dict[str, Any]], continues: bool, folder: Path) -> dict[str, Any]:
    """Both engines of `graph` in `folder`, each built by `make`; what `make` says of them, by their names.

    `continues`: the backend feeds an engine more than the graph's inputs, see `_branches`.
    BackendMissing where onnx, which takes the graph apart, is not installed.
    """
    try:
        import onnx
    except ImportError:
        what = "onnx is not installed, and takes the graph of an early exit apart: pip install onnx"
        raise BackendMissing(Problem("early_exit", what)) from None
    from tlcompile.compile._branches import part

    parts = part(onnx.load(graph.model), graph.signature, continues)
    facts: dict[str, Any] = {}
    for name, one in zip((FIRST, REST), parts, strict=True):
        place = folder / name
        place.mkdir()
        write_json(place / "signature.json", one.signature.to_json())
        with tempfile.TemporaryDirectory(prefix="tlcompile-") as scratch:
            source = Path(scratch)
            onnx.save(one.model, source / "model.onnx")
            shutil.copyfile(place / "signature.json", source / "signature.json")
            facts[name] = make(Graph(source, ""), place)
    return {**facts, "reproducible": all(found.get("reproducible", True) for found in facts.values())}


def opened(folder: Path, signature: Signature, load: Callable[[Path], Runner]) -> Split:
    """The engine in `folder`, both parts of it opened by `load`."""
    threshold = float(read_json(folder / EXIT_FILE)["threshold"])
    first = load(folder / FIRST)
    try:
        return Split(first, load(folder / REST), signature, threshold)
    except Exception:
        first.close()
        raise


class Split:
    """Asks `rest` of those examples of a feed only of which `first` is less sure than `threshold`."""

    def __init__(self, first: Runner, rest: Runner, signature: Signature, threshold: float) -> None:
        self.first, self.rest, self.threshold = first, rest, threshold
        self.answer, self.several = signature.answer, signature.labels == "classes"
        self.notes = tuple(dict.fromkeys(note for one in (first, rest) for note in getattr(one, "notes", ())))

    def run(self, feed: Feed) -> Feed:
        found = self.first.run(feed)
        begun = {FIRST_VOICE: found.pop(FIRST_VOICE)} if FIRST_VOICE in found else {}
        unsure = ~(confidence(found[self.answer], self.several) >= self.threshold)  # NaN is not sure
        if unsure.any():
            left = self.rest.run({name: value[unsure] for name, value in {**feed, **begun}.items()})
            for name, value in left.items():
                found[name] = np.array(found[name])  # a runtime may own what it gave
                found[name][unsure] = value
        return found

    def close(self) -> None:
        self.first.close()
        self.rest.close()
