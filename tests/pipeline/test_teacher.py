"""A teacher from outside reads texts by its own signature; what can't teach is refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import toy_graphs
from onnxruntime import InferenceSession

from tests.pipeline.test_fusing import Made
from tests.pipeline.test_text_members import attentive
from tests.toy_recipe import with_lines
from tlcompile.artifacts import Splits, Target, TextSpec, read_json, write_json
from tlcompile.data import Split
from tlcompile.errors import RecipeError
from tlcompile.options import PathText
from tlcompile.pipeline import ensembles, students
from tlcompile.pipeline.plan import plan
from tlcompile.recipe import Recipe, load, parse
from tlcompile.runtime.feeds import text_feeder
from tlcompile.store import Store

LENGTH = 7


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`teacher`: a bundle that takes fewer tokens than our network, and numbers two words the other way round."""
    found = Made("text-classification", tmp_path_factory.mktemp("texts"))
    teacher = found.root / "teacher"
    shutil.copytree(found.made["export"].folder, teacher)
    attentive(teacher / "model.onnx", 3)
    signature = read_json(teacher / "signature.json")
    assert signature["spec"]["max_length"] > LENGTH
    signature["spec"]["max_length"] = LENGTH
    write_json(teacher / "signature.json", signature)
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    return found


def taught(texts: Made, teacher: str) -> Recipe:
    path = texts.root / "taught.toml"
    path.write_text(f'{texts.recipe.text.partition("[tta]")[0]}\n[distill]\nteacher = "{teacher}"\n')
    return load(path)


def answers(texts: Made, teacher: str, folder: Path) -> np.ndarray:
    folder.mkdir()
    students.answers(taught(texts, teacher), "", texts.made, folder, folder)
    return np.load(folder / students.FILE)


def test_a_bundle_reads_with_its_own_tokenizer_as_long_as_it_takes(texts: Made, tmp_path: Path) -> None:
    students.given(taught(texts, "teacher"), texts.made, tmp_path, tmp_path)
    found = answers(texts, "teacher", tmp_path / "bundle")
    teacher, split = texts.root / "teacher", Split(texts.made["data"].folder, "train")
    feed = text_feeder((teacher / "tokenizer.json").read_text(), TextSpec(LENGTH))
    session = InferenceSession(teacher / "model.onnx")
    expected = np.concatenate([session.run(["logits"], feed([split[i]]))[0] for i in range(len(split))])
    assert np.abs(found - expected).max() < 1e-4
    alone = texts.root / "alone.onnx"
    shutil.copyfile(teacher / "model.onnx", alone)
    as_ours = answers(texts, "alone.onnx", tmp_path / "file")
    assert np.abs(as_ours - expected).max() > 0.01, "it matters how texts are read"


Change = Callable[[Path], None]


def signed(**changed: object) -> Change:
    return lambda folder: write_json(folder / "signature.json", {**read_json(folder / "signature.json"), **changed})


def shaped(name: str, axis: int, size: int) -> Change:
    """A file without a signature, of which one size is fixed."""

    def change(folder: Path) -> None:
        (folder / "signature.json").unlink()
        model = onnx.load(folder / "model.onnx")
        tensor = next(v for v in (*model.graph.input, *model.graph.output) if v.name == name)
        tensor.type.tensor_type.shape.dim[axis].dim_value = size
        onnx.save(model, folder / "model.onnx")

    return change


def typed(name: str, number: int) -> Change:
    def change(folder: Path) -> None:
        (folder / "signature.json").unlink()
        model = onnx.load(folder / "model.onnx")
        next(v for v in model.graph.input if v.name == name).type.tensor_type.elem_type = number
        onnx.save(model, folder / "model.onnx")

    return change


def renamed(folder: Path) -> None:
    (folder / "signature.json").unlink()
    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].name = "ids"
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (signed(task="text-multilabel"), "is of the task 'text-multilabel', the data is for 'text-classification'"),
        (signed(classes=["yes", "no"]), "the same classes in another order"),
        (signed(classes=["no", "maybe"]), "has other classes than the data"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json, which texts are read with"),
        (shaped("input_ids", 1, 128), r"takes 'input_ids' of one size only \(128 on axis 1\); export it with dynamic"),
        (shaped("attention_mask", 0, 1), "takes 'attention_mask' of one size only"),
        (shaped("logits", 1, 5), "answers for 5 classes, the data has 2"),
        (typed("input_ids", onnx.TensorProto.INT32), "takes 'input_ids' in int32, expected int64"),
        (renamed, "expected .'attention_mask', 'input_ids'.: what our own graph takes"),
    ],
)
def test_a_teacher_that_can_not_teach_is_refused_with_the_reason(
    texts: Made, tmp_path: Path, change: Change, says: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(texts.made["export"].folder, bundle)
    students.given(taught(texts, str(bundle)), texts.made, tmp_path, tmp_path)
    change(bundle)
    with pytest.raises(RecipeError, match=says) as caught:
        students.given(taught(texts, str(bundle)), texts.made, tmp_path, tmp_path)
    assert all("distill.teacher" in problem.where for problem in caught.value.problems)


def test_a_teacher_of_images_takes_them_raw_and_of_any_size(tmp_path: Path) -> None:
    graph = toy_graphs.image_graph(tmp_path / "toy")
    (graph.folder / "signature.json").unlink()
    write_json(tmp_path / "data.json", {"classes": list(toy_graphs.CLASSES), "task": "image-classification"})
    assert students.unfit("w", graph.model, Splits(tmp_path, ""), "image") == []
    shaped_model = onnx.load(graph.model)
    shaped_model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 224
    onnx.save(shaped_model, graph.model)
    [problem] = students.unfit("w", graph.model, Splits(tmp_path, ""), "image")
    assert "224 on axis 1" in problem.what


def test_what_is_given_is_looked_at_before_anything_is_trained(tmp_path: Path) -> None:
    lines = ("[distill]", 'teacher = "t.onnx"', "[ensemble]", "[[ensemble.member]]", 'bundle = "b"')
    for name in ("t.onnx", "b"):
        (tmp_path / name).touch()
    steps = plan(parse(with_lines(*lines), tmp_path / "recipe.toml"), Store(tmp_path / "store"))
    names = [step.name for step in steps]
    assert len(names) == len(set(names))
    assert names.index("data") < names.index("export/member-2") < names.index("train")
    assert names.index("data") < names.index(students.GIVEN) < names.index("train") < names.index("distill/teacher")
    assert students.GIVEN in next(step for step in steps if step.name == "distill/teacher").needs


def test_numbers_of_a_teacher_are_told_in_our_unit() -> None:
    theirs, ours = Target("price", 100.0, 20.0), Target("price", 110.0, 10.0)
    rows = np.array([[0.0], [1.0]], np.float32)
    assert students.in_our_unit(rows, theirs, ours).tolist() == [[-1.0], [1.0]]
    assert students.in_our_unit(rows, None, None) is rows
    assert students.in_our_unit(rows, theirs, ours).dtype == np.float32


def test_a_bundle_of_another_number_is_no_member(texts: Made, tmp_path: Path) -> None:
    bundle, folder = tmp_path / "bundle", tmp_path / "export"
    shutil.copytree(texts.made["export"].folder, bundle)
    folder.mkdir()
    ensembles.of_bundle(PathText("bundle", tmp_path), texts.made, folder, tmp_path)
    signed(target={"name": "price", "mean": 1.0, "std": 2.0})(bundle)
    with pytest.raises(RecipeError, match="learnt 'price' with mean 1 and deviation 2, the data has no number"):
        ensembles.of_bundle(PathText("bundle", tmp_path), texts.made, folder, tmp_path)
