"""`[distill]`: what a teacher says of the training examples, computed once, and the network that learns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile import parity, registry
from tlcompile.artifacts import Graph, Lesson, Signature, Splits, Target, read_json, write_json
from tlcompile.errors import Problem, RecipeError
from tlcompile.options import PathText
from tlcompile.pipeline.ensembles import class_problems, graph_of
from tlcompile.pipeline.step import Made, splits_of
from tlcompile.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from tlcompile.data import Split

GIVEN = "distill/given"
"""The step that looks at the teacher."""
SIGNATURE = "signature.json"
INPUTS = {
    "image": {"image": ("UINT8", 3)},
    "text": {"input_ids": ("INT64", 2), "attention_mask": ("INT64", 2)},
}
"""What our graphs take: type, and how many of the first axes have any size."""
CHUNK = 8
"""Feeds of 32 examples that are run at once."""
FILE = "train.npy"


def given(recipe: Recipe, made: Made, folder: Path, work: Path) -> None:
    """Look at the teacher that the recipe names before anything is trained. RecipeError where it can't teach this."""
    where, kind = f"{recipe.path}: distill.teacher", registry.load("tasks", recipe.task).KIND
    if problems := unfit(where, teacher_file(recipe), splits_of(made), kind):
        raise RecipeError(*problems)
    write_json(folder / "teacher.json", {"sees": "as its signature says" if own(recipe) else "what our own graph sees"})


def teacher_file(recipe: Recipe) -> Path:
    """The ONNX file that the recipe names, or that of the bundle; RecipeError where there is none."""
    assert recipe.extras.distill
    named = recipe.extras.distill.teacher
    assert isinstance(named, PathText)
    model = named.absolute / "model.onnx" if named.absolute.is_dir() else named.absolute
    if not model.is_file():
        where = f"{recipe.path}: distill.teacher"
        raise RecipeError(Problem(where, f"'{named}' is no bundle: it has no model.onnx"))
    return model


def own(recipe: Recipe) -> Graph | None:
    """The teacher as a graph with a signature, by which it is fed; None where it is an ONNX file alone."""
    model = teacher_file(recipe)
    return Graph(model.parent, "") if model.with_name(SIGNATURE).exists() else None


def answers(recipe: Recipe, teacher: str, made: Made, folder: Path, work: Path) -> None:
    """`train.npy`: logits float32 [N, K] of the examples that training sees, in their order."""
    import numpy as np

    from tlcompile.data import Split
    from tlcompile.data._joined import Joined

    place = made["data"].folder
    split = Split(place, "train")
    if recipe.train.retrain_full:
        split = Joined(split, Split(place, "val"))
    if teacher:
        like = graph_of(made, teacher)
        model = like.model
    else:
        like, model = own(recipe) or graph_of(made, "export"), teacher_file(recipe)
    found = in_our_unit(logits(model, like, split), like.signature.target, splits_of(made).target)
    np.save(folder / FILE, found, allow_pickle=False)


def in_our_unit(rows: np.ndarray, theirs: Target | None, ours: Target | None) -> np.ndarray:
    """Numbers in standard deviations from the mean that the teacher was trained with -> in those of our data."""
    if theirs is None or ours is None or theirs == ours:
        return rows
    return ((rows * theirs.std + theirs.mean - ours.mean) / ours.std).astype(rows.dtype)


def unfit(where: str, model: Path, splits: Splits, kind: str) -> list[Problem]:
    """What keeps the ONNX file `model` from teaching `splits`: by its signature, else by what the file itself says.

    A bundle reads texts with its own tokenizer, as long as it takes; a file alone is fed like our own graph.
    """
    import onnx

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception as error:  # protobuf's, which shares no base with others
        return [Problem(where, f"'{model.name}' can't be read as ONNX: {str(error).splitlines()[0]}")]
    width = len(splits.classes) or 1
    if "logits" not in [o.name for o in graph.output]:
        return [Problem(where, "has no output 'logits'")]
    if not (about := model.with_name(SIGNATURE)).exists():
        return [*not_fed(where, graph, kind), *other_width(where, graph, width)]
    signature = Signature.from_json(read_json(about))
    if signature.task != splits.info["task"]:
        return [Problem(where, f"is of the task '{signature.task}', the data is for '{splits.info['task']}'")]
    if signature.target and splits.target and signature.target.name != splits.target.name:
        return [Problem(where, f"learnt '{signature.target.name}', the data has '{splits.target.name}'")]
    if kind == "text" and not model.with_name("tokenizer.json").exists():
        return [Problem(where, f"'{model.parent.name}' has no tokenizer.json, which texts are read with")]
    return class_problems(where, signature.classes, splits.classes) or other_width(where, graph, width)


def other_width(where: str, graph: onnx.GraphProto, width: int) -> list[Problem]:
    shape = next(o for o in graph.output if o.name == "logits").type.tensor_type.shape.dim
    found = shape[-1].dim_value if shape else 0
    return [Problem(where, f"answers for {found} classes, the data has {width}")] if found and found != width else []


def not_fed(where: str, graph: onnx.GraphProto, kind: str) -> list[Problem]:
    """Why a graph without a signature can't be fed like ours: inputs of other names or types, or of one fixed size."""
    from onnx import TensorProto

    constants, wanted = {i.name for i in graph.initializer}, INPUTS[kind]
    inputs = {i.name: i.type.tensor_type for i in graph.input if i.name not in constants}
    if set(inputs) != set(wanted):
        return [Problem(where, f"takes {sorted(inputs)}, expected {sorted(wanted)}: what our own graph takes")]
    found = []
    for name, (dtype, free) in wanted.items():
        tensor = inputs[name]
        if (number := tensor.elem_type) != getattr(TensorProto, dtype):
            what = f"takes '{name}' in {TensorProto.DataType.Name(number).lower()}, expected {dtype.lower()}"
            found.append(Problem(where, what))
        fixed = {axis: dim.dim_value for axis, dim in enumerate(tensor.shape.dim[:free]) if dim.dim_value}
        if fixed:
            sizes = ", ".join(f"{size} on axis {axis}" for axis, size in fixed.items())
            found.append(Problem(where, f"takes '{name}' of one size only ({sizes}); export it with dynamic axes"))
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
