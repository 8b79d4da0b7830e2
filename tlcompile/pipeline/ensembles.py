"""What the steps of `ensemble_steps.py` do: choose views and members on validation examples, fuse what was chosen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile import parity, registry
from tlcompile.artifacts import Checkpoint, Feed, Graph, Signature, Splits, read_json, write_json
from tlcompile.errors import Problem, RecipeError, TlcompileError, nearest
from tlcompile.options import PathText
from tlcompile.parity import Rung, Tolerance
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.data import Split

CHOICE = "choice.json"
CHUNK = 256
"""Examples whose views are held in memory at once."""

SELECTED_ON = "val"
AGAIN = "chosen by networks that were trained without val; what ships was trained again on train and val"


def train_member(recipe: Recipe, data: str, made: Made, folder: Path, work: Path) -> None:
    """Features that were computed once are those of the first network, so none are taken over."""
    from tlcompile.pipeline.stages import train

    train(recipe, data, {name: entry for name, entry in made.items() if name != "features"}, folder, work)


def choose_tta(recipe: Recipe, views: tuple[str, ...], graph: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.pipeline import pays

    table, source = recipe.extras.tta, graph_of(made, graph)
    assert table
    split = held_out(made)
    logits = outputs(source, split, views)
    held = pays.Held(views, logits, split.labels, source.signature.labels, table.aggregation)
    write_json(folder / CHOICE, {**pays.select(held, 0, table.max_views), **selected_on(recipe)})


def selected_on(recipe: Recipe) -> dict[str, str]:
    """On which examples a choice was made; a note where the chosen networks are not those that ship."""
    return {"selected_on": SELECTED_ON, **({"note": AGAIN} if recipe.train.retrain_full else {})}


def held_out(made: Made) -> Split:
    from tlcompile.data import Split

    return Split(made["data"].folder, SELECTED_ON)


def outputs(graph: Graph, split: Split, views: Sequence[str]) -> np.ndarray:
    """Logits float32 [V, N, K] of a split through each view, in the split's order, in ONNX Runtime."""
    import numpy as np

    from tlcompile import progress
    from tlcompile.optimize._views_outputs import view_outputs
    from tlcompile.runtime.feeds import batches, feeder

    feed = feeder(graph.signature, graph.folder)
    groups = list(batches(split, 32))
    width = graph.signature.outputs[0].shape[-1]
    found = np.empty((len(views), len(split), int(width)), np.float32)
    per_chunk = max(1, CHUNK // 32)
    with progress.bar(f"{len(views)} views", len(split)) as bar:
        for start in range(0, len(groups), per_chunk):
            chunk = groups[start : start + per_chunk]
            indices = [i for group in chunk for i in group]
            found[:, indices] = view_outputs(graph, [feed([split[i] for i in group]) for group in chunk], views)
            bar.step(len(indices))
    return found


def choose_members(recipe: Recipe, sources: Mapping[str, str], made: Made, folder: Path, work: Path) -> None:
    """Temperatures are fitted first, so that a member that is too sure of itself does not drown the others."""
    import numpy as np

    from tlcompile.evaluate import combine
    from tlcompile.pipeline import pays

    assert recipe.extras.ensemble
    table, labels = recipe.extras.ensemble.table, registry.load("tasks", recipe.task).LABELS
    names = tuple(line or "train" for line in sources)
    split = held_out(made)
    found = [validation_logits(made, step, split) for step in sources.values()]
    temperatures = [combine.temperature(logits, split.labels, labels) for logits in found]
    scaled = np.stack([logits / t for logits, t in zip(found, temperatures, strict=True)])
    held = pays.Held(names, scaled, split.labels, labels, equal=table.weights == "equal")
    best = pays.best(held)
    chosen = pays.select(held, best, table.max_members)
    chosen |= {"temperatures": [temperatures[i] for i in chosen["indices"]], "best": best}
    write_json(folder / CHOICE, {**chosen, **selected_on(recipe)})


def validation_logits(made: Made, step: str, split: Split) -> np.ndarray:
    """What torch said of the validation examples of a Checkpoint, or what a bundle's graph says."""
    import numpy as np

    reference = made[step].folder / "reference.npz"
    if not reference.exists():
        return np.asarray(outputs(graph_of(made, step), split, first_view(made, step))[0])
    with np.load(reference, allow_pickle=False) as arrays:
        return np.asarray(arrays["val_logits"])


def first_view(made: Made, step: str) -> tuple[str]:
    from tlcompile.optimize._views import lawful

    return (lawful(graph_of(made, step).signature.kind)[0],)


def graph_of(made: Made, step: str) -> Graph:
    return Graph(made[step].folder, made[step].digest)


def of_bundle(place: PathText, made: Made, folder: Path, work: Path) -> None:
    """The portable graph of a bundle. RecipeError where it does not answer with the same classes."""
    bundle, where = place.absolute, str(place)
    splits = Splits(made["data"].folder, made["data"].digest)
    missing = [name for name in ("model.onnx", "signature.json", "golden.npz") if not (bundle / name).is_file()]
    if missing:
        raise RecipeError(Problem(where, f"not a bundle: it has no {' and no '.join(missing)}"))
    signature = Signature.from_json(read_json(bundle / "signature.json"))
    if problems := class_problems(where, signature.classes, splits.classes):
        raise RecipeError(*problems)
    for name in ("model.onnx", "signature.json", "golden.npz", "tokenizer.json"):
        if (bundle / name).exists():
            shutil.copyfile(bundle / name, folder / name)
    write_json(folder / "parity.json", [])


def class_problems(where: str, theirs: Sequence[str], ours: Sequence[str]) -> list[Problem]:
    """Empty where both lists are the same in the same order."""
    if tuple(theirs) == tuple(ours):
        return []
    if sorted(theirs) == sorted(ours):
        return [Problem(where, "has the same classes in another order: its answers would be mixed up")]
    lacks = [name for name in ours if name not in theirs]
    more = [name for name in theirs if name not in ours]
    words = [f"it lacks '{n}'" for n in lacks[:5]] + [f"it knows '{n}', which the data does not" for n in more[:5]]
    near = nearest(lacks[0], more) if lacks else ""
    return [Problem(where, f"has other classes than the data: {'; '.join(words)}", near)]


def fuse(
    recipe: Recipe, name: str, parts: tuple[str, ...], chosen: tuple[str, ...], made: Made, folder: Path, work: Path
) -> None:
    """One graph of the graphs `parts` as `chosen` says, held against loops over its parts on the golden examples."""
    from tlcompile.runtime import golden

    choices = {step.rpartition("/")[2]: read_json(made[step].folder / CHOICE) for step in chosen}
    members = choices.get("ensemble", {"indices": range(len(parts))})
    graphs = [graph_of(made, parts[i]) for i in members["indices"]]
    refuse_other_inputs(graphs)
    feeds, _ = golden.load(graphs[0].folder / "golden.npz")
    rungs = [read_json(graph.folder / "parity.json") for graph in graphs]
    before, rung = [r[-1] for r in rungs if r], None
    if "tta" in choices and (options := options_of(recipe, choices["tta"], graphs[0])):
        seen = [passed("fuse_tta", options, g, work / f"part-{i}", feeds) for i, g in enumerate(graphs)]
        graphs, rung = [graph for graph, _ in seen], seen[0][1]
    if len(graphs) > 1:
        others = tuple(str(graph.model.absolute()) for graph in graphs[1:])
        heat = {"weights": _tuples(members["weights"]), "temperatures": tuple(members["temperatures"])}
        module, names = registry.load("optimize", "fuse_ensemble"), tuple(members["kept"])
        options = module.Options(members=others, names=names, **heat)
        graphs[0], rung = passed("fuse_ensemble", options, graphs[0], work / "joined", feeds)
    for file in ("model.onnx", "signature.json", "tokenizer.json"):
        if (graphs[0].folder / file).exists():
            shutil.copyfile(graphs[0].folder / file, folder / file)
    found = parity.run_graph(folder / "model.onnx", feeds)
    golden.save(folder / "golden.npz", feeds, found)
    if rung is None:  # one part is all that was kept
        rung = parity.compare(name, "its only part", found, found, Tolerance(0.0, 1.0), graphs[0].signature)
    moved = max(float(row.get("logits") or 0.0) for row in (*before, rung.to_json()))
    write_json(folder / "parity.json", [{**rung.to_json(), "rung": name, "logits": moved}])  # what engines may be off


def passed(name: str, options: Any, graph: Graph, folder: Path, feeds: list[Feed]) -> tuple[Graph, Rung]:
    """The graph after the pass `name`, held against its loop."""
    module = registry.load("optimize", name)
    folder.mkdir(parents=True, exist_ok=True)
    module.apply(graph.model, options, None, folder / "model.onnx")
    for file in ("signature.json", "tokenizer.json"):
        if (graph.folder / file).exists():
            shutil.copyfile(graph.folder / file, folder / file)
    found, expected = parity.run_graph(folder / "model.onnx", feeds), module.expected(graph.model, options, feeds)
    rung = parity.compare(name, "a loop over its parts", found, expected, module.tolerance(options), graph.signature)
    return Graph(folder, ""), parity.check(rung)


def refuse_other_inputs(graphs: Sequence[Graph]) -> None:
    """TlcompileError where members would need to read their input in different ways."""
    tokenizers = {(g.folder / "tokenizer.json").read_bytes() for g in graphs if (g.folder / "tokenizer.json").exists()}
    if len(tokenizers) > 1:
        what = "members have different tokenizers; one graph takes one kind of token ids"
        raise TlcompileError(Problem("ensemble", what))


def options_of(recipe: Recipe, choice: dict[str, Any], graph: Graph) -> Any:
    """The options of the pass `fuse_tta` for the views that were kept; None where that is the plain one alone."""
    from tlcompile.optimize._views import lawful

    assert recipe.extras.tta
    if choice["kept"] == [lawful(graph.signature.kind)[0]]:
        return None
    module, way = registry.load("optimize", "fuse_tta"), recipe.extras.tta.aggregation
    aggregation = "probabilities" if way == "learned" else way
    return module.Options(views=tuple(choice["kept"]), aggregation=aggregation, weights=_tuples(choice["weights"]))


def _tuples(weights: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(row) if isinstance(row, list) else float(row) for row in weights)


def soup(recipe: Recipe, sources: Sequence[str], made: Made, folder: Path, work: Path) -> None:
    from tlcompile.pipeline.stages import job
    from tlcompile.train.soup import write

    write(job(recipe, made), [Checkpoint(made[s].folder, made[s].digest).folder for s in sources], folder)
