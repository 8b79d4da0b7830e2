"""`[pseudo_labels]`: rounds of training, export and labelling before the training whose network is built.

train/round-1 ─► export/round-1 ─► pseudo/1 ─► (train/round-2 ─► …) ─► train
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tlcompile.artifacts import read_json, write_json
from tlcompile.errors import DataError, Problem
from tlcompile.options import PathText
from tlcompile.pipeline.ensembles import graph_of
from tlcompile.pipeline.step import Made, Step, tools
from tlcompile.recipe import Recipe
from tlcompile.store import Store

FILE = "pseudo.json"
ANSWERS = "train.npy"


def labelled(recipe: Recipe) -> str:
    """The step whose Splits the last training reads."""
    table = recipe.extras.pseudo_labels
    return f"pseudo/{table.rounds}" if table else "data"


def steps(
    recipe: Recipe,
    store: Store,
    train: Callable[[str, str], Step],
    export: Callable[[str, str], Step],
) -> list[Step]:
    """`train(name, data)` and `export(line, checkpoint)` make the steps of a round; `data` names its Splits."""
    table = recipe.extras.pseudo_labels
    found: list[Step] = []
    for i in range(1, table.rounds + 1) if table else ():
        line, data = f"round-{i}", f"pseudo/{i - 1}" if i > 1 else "data"
        found += [train(f"train/{line}", data), export(line, f"train/{line}"), label_step(recipe, store, i)]
    return found


def joined(made: Made) -> list[str]:
    """A sentence about each round of labelling."""
    found = []
    for name in (n for n in made if n.startswith("pseudo/")):
        told = read_json(made[name].folder / FILE)
        left = "".join(f", {count} {why}" for why, count in told["left_out"].items())
        found.append(f"{name}: {sum(told['joined'].values())} of {told['found']} unlabelled examples joined{left}")
    return found


def label_step(recipe: Recipe, store: Store, round_: int) -> Step:
    table = recipe.extras.pseudo_labels
    assert table
    assert isinstance(table.path, PathText)
    path = table.path

    def parts() -> dict[str, Any]:
        plain = table.model_dump(mode="json", exclude={"path", "rounds"})
        used = tools("numpy", "pyarrow", "pillow", "onnxruntime", "onnxruntime-gpu")
        return {"table": plain, "content": store.stats.digest(path.absolute), "tools": used}

    graph = f"export/round-{round_}"
    return Step(f"pseudo/{round_}", "train", ("data", graph), parts, partial(label, recipe, graph))


def label(recipe: Recipe, graph: str, made: Made, folder: Path, work: Path) -> None:
    """A Splits folder with the examples that the graph of the round is sure of; `pseudo.json` counts them."""
    import numpy as np

    from tlcompile.data._split import Split
    from tlcompile.evaluate.combine import probabilities
    from tlcompile.pipeline.students import logits
    from tlcompile.train import pseudo

    table = recipe.extras.pseudo_labels
    assert table
    assert isinstance(table.path, PathText)
    source = graph_of(made, graph)
    signature, splits = source.signature, made["data"].folder
    every = pseudo.read(table.path.absolute, signature.kind)
    usable, left = pseudo.usable(every, splits)
    some = pseudo.Unlabelled(every.kind, *(tuple(part[i] for i in usable) for part in (every.ids, every.items)))
    answers = logits(source.model, source, some)
    sure = probabilities(answers, "class")
    chosen = pseudo.choose(sure, table.threshold, table.top_k)
    if not len(chosen):
        what = f"no example has a probability of {table.threshold:g}; the largest is {sure.max():.3f}; lower threshold"
        raise DataError(Problem(f"{recipe.path}: pseudo_labels.threshold", what))
    labels = answers.argmax(-1)[chosen]
    pseudo.write(splits, some, chosen.tolist(), labels, folder)
    if table.labels == "soft":
        truth = Split(splits, "train").labels
        np.save(folder / ANSWERS, pseudo.soft(truth, len(signature.classes), answers[chosen]), allow_pickle=False)
    counts = {name: int((labels == k).sum()) for k, name in enumerate(signature.classes)}
    write_json(folder / FILE, {"joined": counts, "found": len(every), "left_out": left})
