"""What the steps of `ensemble_steps.py` do before anything is fused: choose views and members on validation data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile import registry
from tlcompile.artifacts import Checkpoint, Graph, Signature, Target, TextSpec, read_json, write_json
from tlcompile.errors import Problem, RecipeError, nearest
from tlcompile.options import PathText
from tlcompile.pipeline.step import Made, splits_of
from tlcompile.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.data import Split
    from tlcompile.optimize._views_mean import Aggregation
    from tlcompile.pipeline.pays import Held

CHOICE = "choice.json"
CHUNK = 256
"""Examples whose views are held in memory at once."""

SELECTED_ON = "val"
AGAIN = "chosen by networks that were trained without val; what ships was trained again on train and val"


def train_member(recipe: Recipe, data: str, made: Made, folder: Path, work: Path) -> None:
    """Features that were computed once are those of the first network, so none are taken over."""
    from tlcompile.pipeline.stages import train

    train(recipe, data, {name: entry for name, entry in made.items() if name != "features"}, folder, work)


WINDOWS = "windows:"
DOCUMENT = 16
"""Texts are read up to this many times what the network takes, where the recipe does not say how far."""


def choose_tta(recipe: Recipe, views: tuple[str, ...], graph: str, made: Made, folder: Path, work: Path) -> None:
    from tlcompile.optimize._views import lawful
    from tlcompile.pipeline import pays

    table, source = recipe.extras.tta, graph_of(made, graph)
    assert table
    split, all_windows = held_out(made), views[0].startswith(WINDOWS)
    names = (lawful(source.signature.kind)[0], *views) if all_windows else views
    way = "probabilities" if table.aggregation == "learned" else table.aggregation
    logits = outputs(source, split, names, document_tokens(recipe, source.signature), way)
    held = pays.Held(names, logits, split.labels, source.signature.labels, table.aggregation)
    chosen = pays.instead(held) if all_windows else pays.select(held, 0, table.max_views)
    if table.early_exit:
        chosen["exit"] = leaving(recipe, held, chosen["indices"])
    write_json(folder / CHOICE, {**chosen, **selected_on(recipe)})


def leaving(recipe: Recipe, held: Held, kept: Sequence[int]) -> dict[str, Any]:
    """From which confidence on the first of the voices `kept` may answer alone; nothing where it is the only one."""
    from tlcompile.pipeline import exits
    from tlcompile.pipeline.choose import DEFAULT_MARGIN

    if len(kept) < 2:
        return {}
    margin = recipe.gates.max_accuracy_drop
    return exits.choose(held, kept, DEFAULT_MARGIN if margin is None else margin, recipe.evaluate.alpha)


def document_tokens(recipe: Recipe, signature: Signature) -> int | None:
    """How many tokens of a text are read where views of the whole document are taken; None of images."""
    if not isinstance(signature.spec, TextSpec):
        return None
    table = recipe.extras.tta
    return (table.document_tokens if table else None) or DOCUMENT * signature.spec.max_length


def selected_on(recipe: Recipe) -> dict[str, str]:
    """On which examples a choice was made; a note where the chosen networks are not those that ship."""
    return {"selected_on": SELECTED_ON, **({"note": AGAIN} if recipe.train.retrain_full else {})}


def held_out(made: Made) -> Split:
    from tlcompile.data import Split

    return Split(made["data"].folder, SELECTED_ON)


def outputs(
    graph: Graph, split: Split, views: Sequence[str], tokens: int | None = None, way: Aggregation = "probabilities"
) -> np.ndarray:
    """Logits float32 [V, N, K] of a split through each view, in the split's order, in ONNX Runtime.

    Texts are read up to `tokens`; `way` is how all windows of one become one answer.
    """
    import numpy as np

    from tlcompile import progress
    from tlcompile.optimize import fuse_tta
    from tlcompile.optimize._views_outputs import view_outputs
    from tlcompile.runtime.feeds import batches, feeder

    options = fuse_tta.Options(document_tokens=tokens)
    feed = feeder(fuse_tta.signature_after(graph.signature, options), graph.folder)
    groups = list(batches(split, 32))
    width = graph.signature.outputs[0].shape[-1]
    found = np.empty((len(views), len(split), int(width)), np.float32)
    per_chunk = max(1, CHUNK // 32)
    with progress.bar(f"{len(views)} views", len(split)) as bar:
        for start in range(0, len(groups), per_chunk):
            chunk = groups[start : start + per_chunk]
            indices = [i for group in chunk for i in group]
            feeds = [feed([split[i] for i in group]) for group in chunk]
            found[:, indices] = view_outputs(graph, feeds, views, way)
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
    if table.early_exit:
        chosen["exit"] = leaving(recipe, held, chosen["indices"])
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
    """The portable graph of a bundle. RecipeError where it is of another task or does not answer with our classes."""
    bundle, where = place.absolute, str(place)
    splits = splits_of(made)
    missing = [name for name in ("model.onnx", "signature.json", "golden.npz") if not (bundle / name).is_file()]
    if missing:
        raise RecipeError(Problem(where, f"not a bundle: it has no {' and no '.join(missing)}"))
    signature = Signature.from_json(read_json(bundle / "signature.json"))
    problems, task = class_problems(where, signature.classes, splits.classes), splits.info["task"]
    if signature.task != task:
        problems.insert(0, Problem(where, f"is of the task '{signature.task}', the data is for '{task}'"))
    if signature.target != splits.target:
        problems.append(Problem(where, f"learnt {_learnt(signature.target)}, the data has {_learnt(splits.target)}"))
    if problems:
        raise RecipeError(*problems)
    for name in ("model.onnx", "signature.json", "golden.npz", "tokenizer.json"):
        if (bundle / name).exists():
            shutil.copyfile(bundle / name, folder / name)
    write_json(folder / "parity.json", [])


def _learnt(target: Target | None) -> str:
    return f"'{target.name}' with mean {target.mean:.6g} and deviation {target.std:.6g}" if target else "no number"


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


def soup(recipe: Recipe, sources: Sequence[str], made: Made, folder: Path, work: Path) -> None:
    from tlcompile.pipeline.stages import job
    from tlcompile.train.soup import write

    write(job(recipe, made), [Checkpoint(made[s].folder, made[s].digest).folder for s in sources], folder)
