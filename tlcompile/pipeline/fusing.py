"""The views and members that were chosen as one graph, held against a loop over its parts on the golden examples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tlcompile import parity, registry
from tlcompile.artifacts import EXIT_FILE, Feed, Graph, Signature, read_json, write_json
from tlcompile.errors import Problem, TlcompileError
from tlcompile.parity import Rung, Tolerance
from tlcompile.pipeline.ensembles import CHOICE, document_tokens, graph_of
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Recipe

BORDER = 2e-3
"""Confidences this near to the threshold of an early exit may fall on either side in an fp32 engine."""
FILES = ("signature.json", "tokenizer.json")


def fuse(
    recipe: Recipe,
    name: str,
    parts: tuple[str, ...],
    chosen: tuple[str, ...],
    exits: bool,
    made: Made,
    folder: Path,
    work: Path,
) -> None:
    """One graph of the graphs `parts` as the steps `chosen` say; with `exits` the first voice may answer alone.

    Its golden answers are its own, in ONNX Runtime with Q/DQ as written: of fp32, the reference of all its engines.
    """
    from tlcompile.runtime import golden

    choices = {step.rpartition("/")[2]: read_json(made[step].folder / CHOICE) for step in chosen}
    members = choices.get("ensemble", {"indices": range(len(parts))})
    graphs = [graph_of(made, parts[i]) for i in members["indices"]]
    refuse_other_inputs(graphs)
    feeds, fusions = golden.load(graphs[0].folder / "golden.npz")[0], list[Fusion]()
    before = [row for graph in graphs for row in read_json(graph.folder / "parity.json")[-1:]]
    moved = max((float(row.get("logits") or 0.0) for row in before), default=0.0)
    views = tta_options(recipe, choices["tta"], graphs[0], exits) if "tta" in choices else None
    feeds = documents(made, graphs, views) or feeds
    if views:
        seen = [Fusion("fuse_tta", views, g, work / f"part-{i}", feeds) for i, g in enumerate(graphs)]
        graphs, fusions = [one.graph for one in seen], seen[:1]
    if len(graphs) > 1:
        options = ensemble_options(members, graphs[1:], exits)
        fusions.append(Fusion("fuse_ensemble", options, graphs[0], work / "joined", feeds))
    last = fusions[-1].graph if fusions else graphs[0]
    for file in ("model.onnx", *FILES):
        if (last.folder / file).exists():
            shutil.copyfile(last.folder / file, folder / file)
    if fusions and (threshold := fusions[-1].options.exit_at) is not None:
        write_json(folder / EXIT_FILE, {"threshold": threshold})
    found = parity.run_graph(folder / "model.onnx", feeds)
    golden.save(folder / "golden.npz", feeds, found)
    alone = parity.compare(name, "its only part", found, found, Tolerance(0.0, 1.0), last.signature)
    rung, sway = (fusions[-1].rung, fusions[-1].sway(moved)) if fusions else (alone, {})
    moved = max(moved, float(rung.logits or 0.0))  # what engines may be off
    write_json(folder / "parity.json", [{**rung.to_json(), "rung": name, "logits": moved, **sway}])


class Fusion:
    """The graph after the pass `name`, and the rung that holds it against its loop; ParityError where it does not."""

    def __init__(self, name: str, options: Any, before: Graph, folder: Path, feeds: list[Feed]) -> None:
        self.module, self.options, self.before, self.feeds = registry.load("optimize", name), options, before, feeds
        folder.mkdir(parents=True, exist_ok=True)
        self.module.apply(before.model, options, None, folder / "model.onnx")
        for file in FILES:
            if (before.folder / file).exists():
                shutil.copyfile(before.folder / file, folder / file)
        if after := getattr(self.module, "signature_after", None):
            write_json(folder / "signature.json", after(before.signature, options).to_json())
        self.graph = Graph(folder, "")
        found, expected = parity.run_graph(self.graph.model, feeds), self._expected(options)
        allowed, signature = self.module.tolerance(options), before.signature
        self.rung: Rung = parity.check(
            parity.compare(name, "a loop over its parts", found, expected, allowed, signature)
        )

    def _expected(self, options: Any) -> list[Feed]:
        found: list[Feed] = self.module.expected(self.before.model, options, self.feeds)
        return found

    def sway(self, moved: float) -> dict[str, Any]:
        """What golden answers move by where those at the border of an early exit go the other way; {} without one.

        The border is as wide as the logits `moved` already, in their spread: kernels round confidences too.
        """
        if self.options.exit_at is None:
            return {}
        edges = [min(1.0, max(1e-6, self.options.exit_at + side * (BORDER + moved))) for side in (-1, 1)]
        signature = self.before.signature
        low, high = (
            with_logits(self._expected(self.options.model_copy(update={"exit_at": edge})), signature) for edge in edges
        )
        rung = parity.compare("", "", low, high, Tolerance(1.0, 0.0), signature)
        return {"sway": {"max_abs": rung.max_abs, "logits": rung.logits}}


def with_logits(answers: list[Feed], signature: Signature) -> list[Feed]:
    """Probabilities of classes, and what gives them through a softmax or sigmoid."""
    import numpy as np

    found = []
    for feed in answers:
        p = np.clip(np.asarray(feed[signature.answer], np.float64), 1e-30, 1.0)
        odds = np.log(np.maximum(1 - p, 1e-30)) if signature.labels == "classes" else 0.0
        found.append({**feed, "logits": np.log(p) - odds})
    return found


def refuse_other_inputs(graphs: list[Graph]) -> None:
    """TlcompileError where members would need to read their input in different ways."""
    tokenizers = {(g.folder / "tokenizer.json").read_bytes() for g in graphs if (g.folder / "tokenizer.json").exists()}
    if len(tokenizers) > 1:
        what = "members have different tokenizers; one graph takes one kind of token ids"
        raise TlcompileError(Problem("ensemble", what))


def tta_options(recipe: Recipe, choice: dict[str, Any], graph: Graph, exits: bool) -> Any:
    """The options of the pass `fuse_tta` for the views that were kept; None where that is the plain one alone."""
    from tlcompile.optimize._views import lawful

    assert recipe.extras.tta
    if choice["kept"] == [lawful(graph.signature.kind)[0]]:
        return None
    module, way = registry.load("optimize", "fuse_tta"), recipe.extras.tta.aggregation
    return module.Options(
        views=tuple(choice["kept"]),
        aggregation="probabilities" if way == "learned" else way,
        weights=_tuples(choice["weights"]),
        document_tokens=document_tokens(recipe, graph.signature),
        exit_at=_threshold(choice, exits),
    )


def ensemble_options(choice: dict[str, Any], others: list[Graph], exits: bool) -> Any:
    """The options of the pass `fuse_ensemble` for the members that were kept; `others` are those after the first."""
    return registry.load("optimize", "fuse_ensemble").Options(
        members=tuple(str(graph.model.absolute()) for graph in others),
        names=tuple(choice["kept"]),
        weights=_tuples(choice["weights"]),
        temperatures=tuple(choice["temperatures"]),
        exit_at=_threshold(choice, exits),
    )


def _threshold(choice: dict[str, Any], exits: bool) -> float | None:
    found: float | None = choice.get("exit", {}).get("threshold") if exits else None
    return found


def documents(made: Made, graphs: list[Graph], views: Any) -> list[Feed]:
    """The golden examples as all `graphs` with `views` read them, where they read more of a text than the first one.

    Else none.
    """
    from tlcompile.export import golden as examples
    from tlcompile.optimize.fuse_ensemble import longest
    from tlcompile.optimize.fuse_tta import signature_after
    from tlcompile.pipeline.ensembles import held_out
    from tlcompile.runtime.feeds import feeder

    longer = longest([graph.signature for graph in graphs])
    if views:
        longer = signature_after(longer, views)
    if longer == graphs[0].signature:
        return []
    return examples.feeds(examples.of_split(held_out(made), longer.labels), feeder(longer, graphs[0].folder))[0]


def _tuples(weights: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(row) if isinstance(row, list) else float(row) for row in weights)
