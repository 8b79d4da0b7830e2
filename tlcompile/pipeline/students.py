"""`[distill]`: what a teacher says of the training examples, computed once, and the network that learns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile import parity
from tlcompile.artifacts import Graph, Lesson, Signature, Splits, read_json
from tlcompile.errors import Problem, RecipeError
from tlcompile.options import PathText
from tlcompile.pipeline.ensembles import class_problems, graph_of
from tlcompile.pipeline.step import Made
from tlcompile.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.data import Split

CHUNK = 8
"""Feeds of 32 examples that are run at once."""
FILE = "train.npy"


def answers(recipe: Recipe, teacher: str, made: Made, folder: Path, work: Path) -> None:
    """`train.npy`: logits float32 [N, K] of the examples that training sees, in their order."""
    import numpy as np

    from tlcompile.data import Split
    from tlcompile.data._joined import Joined

    place = made["data"].folder
    split = Split(place, "train")
    if recipe.train.retrain_full:
        split = Joined(split, Split(place, "val"))
    like = graph_of(made, teacher or "export")
    model = like.model if teacher else of_file(recipe, like.signature, made)
    np.save(folder / FILE, logits(model, like, split), allow_pickle=False)


def of_file(recipe: Recipe, signature: Signature, made: Made) -> Path:
    """The teacher that the recipe names: a bundle, or an ONNX file, that takes what our own graph takes."""
    assert recipe.extras.distill
    given, where = recipe.extras.distill.teacher, f"{recipe.path}: distill.teacher"
    assert isinstance(given, PathText)
    model = given.absolute / "model.onnx" if given.absolute.is_dir() else given.absolute
    if not model.is_file():
        raise RecipeError(Problem(where, f"'{given}' is no bundle: it has no model.onnx"))
    problems = unlike(where, model, signature)
    if (about := model.with_name("signature.json")).exists():
        theirs = Signature.from_json(read_json(about)).classes
        problems = class_problems(where, theirs, made_classes(made)) or problems
    if problems:
        raise RecipeError(*problems)
    return model


def made_classes(made: Made) -> tuple[str, ...]:
    return Splits(made["data"].folder, made["data"].digest).classes


def unlike(where: str, model: Path, signature: Signature) -> list[Problem]:
    """What keeps an ONNX file without a signature from being a teacher."""
    import onnx

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception as error:  # protobuf's, which shares no base with others
        return [Problem(where, f"'{model.name}' can't be read as ONNX: {str(error).splitlines()[0]}")]
    constants = {i.name for i in graph.initializer}
    inputs = {i.name for i in graph.input} - constants
    wanted = {t.name for t in signature.inputs}
    found = []
    if inputs != wanted:
        found.append(Problem(where, f"takes {sorted(inputs)}, expected {sorted(wanted)}: what our own graph takes"))
    if "logits" not in [o.name for o in graph.output]:
        found.append(Problem(where, "has no output 'logits'"))
        return found
    shape = next(o for o in graph.output if o.name == "logits").type.tensor_type.shape.dim
    width, own = (shape[-1].dim_value if shape else 0), signature.outputs[0].shape[-1]
    if width and width != own:
        found.append(Problem(where, f"answers for {width} classes, the data has {own}"))
    return found


def logits(model: Path, like: Graph, split: Sequence[Any] | Split) -> np.ndarray:
    """What `model` says of `split`, float32 [N, K] in its order, in ONNX Runtime; fed like the graph `like`."""
    import numpy as np

    from tlcompile import progress
    from tlcompile.runtime.feeds import batches, feeder

    feed = feeder(like.signature, like.folder)
    groups = list(batches(split, 32))
    found: np.ndarray | None = None
    with progress.bar("teacher", len(split)) as bar:
        for start in range(0, len(groups), CHUNK):
            chunk = groups[start : start + CHUNK]
            outputs = parity.run_graph(model, [feed([split[i] for i in group]) for group in chunk])
            for group, output in zip(chunk, outputs, strict=True):
                rows = np.asarray(output["logits"], np.float32)
                if found is None:
                    found = np.empty((len(split), rows.shape[1]), np.float32)
                found[group] = rows
                bar.step(len(group))
    assert found is not None, "a training split is never empty"
    return found


def train(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    """The student: trained like the network of the recipe, with the teacher's answers in its loss.

    The answers are of single images, so no images are mixed.
    """
    from tlcompile.pipeline.stages import job
    from tlcompile.train import run

    distill = recipe.extras.distill
    assert distill
    lesson = Lesson(answers=made["distill/teacher"].folder, alpha=distill.alpha, temperature=distill.temperature)
    start = job(recipe, made)
    keys = start.table.model_dump(mode="json")
    keys["augment"] |= {"mixup": 0.0, "cutmix": 0.0}
    keys["epochs"] = distill.epochs or start.table.epochs
    table = start.table.model_validate(keys, context={"base": start.base})
    begin = made["train"].folder if distill.start == "trained" else None
    run(replace(start, table=table, start=begin, teacher=lesson), folder, work)
