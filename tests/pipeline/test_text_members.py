"""Text members of one ensemble, with views of documents or without, each as long as its network takes."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import InferenceSession

from tests.optimize.test_fuse_tta import windows_of
from tests.pipeline.test_fusing import Made
from tlcompile.artifacts import Graph, TextSpec, read_json, write_json
from tlcompile.errors import RecipeError
from tlcompile.options import PathText
from tlcompile.pipeline import ensembles, fusing
from tlcompile.runtime import golden

LENGTHS = {"export": 16, "other": 9}
WEIGHTS = (0.7, 0.3)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The second member takes fewer tokens than the first."""
    found = Made("text-classification", tmp_path_factory.mktemp("texts"))
    place = found.made["other"].folder / "signature.json"
    signature = read_json(place)
    assert signature["spec"]["max_length"] == LENGTHS["export"]
    signature["spec"]["max_length"] = LENGTHS["other"]
    write_json(place, signature)
    for seed, part in enumerate(LENGTHS, 1):
        attentive(found.made[part].folder / "model.onnx", seed)
    return found


def attentive(file: Path, seed: int) -> None:
    """Weights are drawn wide enough for every token to move the answer."""
    model, rng = onnx.load(file), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2 and "token_type" not in tensor.name:
            wide = {"embeddings": 1.0, "classifier": 0.3}
            scale = next((wide[word] for word in wide if word in tensor.name), 2 / np.sqrt(values.shape[0]))
            drawn = scale * rng.standard_normal(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(drawn.astype(np.float32), tensor.name))
    onnx.save(model, file)


@cache
def opened(file: Path) -> InferenceSession:
    return InferenceSession(file)


def fused(texts: Made, folder: Path, views: tuple[str, ...], order: list[int]) -> Graph:
    """As the steps of a build make it, with what they would choose decided here."""
    texts.views = views or ("head", "tail")
    wanted = {"tta": {"kept": list(views), "weights": []}, "ensemble": {"kept": ["a", "b"], "temperatures": [1.0, 1.0]}}
    wanted["ensemble"] |= {"indices": order, "weights": list(WEIGHTS)}
    steps = {f"choose/{name}": texts.chosen(name, **wanted[name]) for name in wanted if views or name == "ensemble"}
    folder.mkdir()
    made = {**texts.made, **steps}
    parts, work = tuple(LENGTHS), folder.with_name("work")
    fusing.fuse(texts.recipe, "optimize/ensemble-tta-fp32", parts, tuple(steps), False, made, folder, work)
    return Graph(folder, "")


def looped(
    texts: Made, tokens: list[int], views: tuple[str, ...], order: list[int], other: int = LENGTHS["other"]
) -> np.ndarray:
    """Member by member and window by window, each run alone; the second member reads `other` tokens."""
    found = []
    for index in order:
        part = list(LENGTHS)[index]
        network = opened(texts.made[part].folder / "model.onnx")
        cuts = [
            cut for view in views or ("head",) for cut in windows_of(tokens, view, {**LENGTHS, "other": other}[part])
        ]
        feeds = [{"input_ids": np.array([c]), "attention_mask": np.ones((1, len(c)), np.int64)} for c in cuts]
        found.append(np.mean([network.run(["probabilities"], feed)[0][0] for feed in feeds], axis=0))
    return np.asarray(np.average(found, axis=0, weights=WEIGHTS))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("views", [(), ("windows:5",), ("span:1", "span:2", "tail")])
def test_each_member_reads_as_much_of_a_text_as_it_takes(
    texts: Made, tmp_path: Path, views: tuple[str, ...], order: list[int]
) -> None:
    graph = fused(texts, tmp_path / "fused", views, order)
    assert isinstance(graph.signature.spec, TextSpec)
    first = LENGTHS["other" if order[0] else "export"]
    assert graph.signature.spec.max_length == (ensembles.DOCUMENT * first if views else LENGTHS["export"])
    feeds, answers = golden.load(graph.folder / "golden.npz")
    seen, apart = 0, 0.0
    for feed, answer in zip(feeds, answers, strict=True):
        for row, ids in enumerate(feed["input_ids"]):
            tokens = ids[: feed["attention_mask"][row].sum()].tolist()
            seen = max(seen, len(tokens))
            assert np.abs(answer["probabilities"][row] - looped(texts, tokens, views, order)).max() < 1e-4
            apart = max(apart, np.abs(answer["probabilities"][row] - looped(texts, tokens, views, order, 16)).max())
    assert seen > LENGTHS["other"]
    assert seen > LENGTHS["export"] or not views
    assert apart > 0.01, "it matters how much the second member reads"


def test_a_bundle_of_another_task_is_no_member(texts: Made, tmp_path: Path) -> None:
    bundle, folder = tmp_path / "bundle", tmp_path / "export"
    shutil.copytree(texts.made["export"].folder, bundle)
    folder.mkdir()
    ensembles.of_bundle(PathText("bundle", tmp_path), texts.made, folder, tmp_path)
    assert Graph(folder, "").signature.task == "text-classification"
    write_json(bundle / "signature.json", {**read_json(bundle / "signature.json"), "task": "image-classification"})
    with pytest.raises(RecipeError, match="of the task 'image-classification', the data is for 'text-classification'"):
        ensembles.of_bundle(PathText("bundle", tmp_path), texts.made, folder, tmp_path)
