"""Views and members of every task as one graph, through what the steps of a build do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.pipeline.test_tasks_build import MAKERS, TEXT, sentences
from tests.tiny import bert
from tlcompile import compile as backends
from tlcompile import parity, registry
from tlcompile.artifacts import Graph, read_json, write_json
from tlcompile.errors import RecipeError, TlcompileError
from tlcompile.optimize._views_mean import aggregate, in_unit
from tlcompile.pipeline import ensembles, fusing, stages
from tlcompile.pipeline.build import build
from tlcompile.recipe import Recipe, load
from tlcompile.runtime import golden
from tlcompile.store import Entry, Store

RECIPE = """name = "{task}"
[data]
task = "{task}"
source = "{source}"
path = "data"
split = {{ train = 0.6, val = 0.2, test = 0.2 }}
calibration = 8
{data}
[model]
{model}
[train]
epochs = 1
batch_size = 16
lr = 5e-3
[tta]
views = {views}
[ensemble]
members = 2
"""


def text_classification(root: Path) -> str:
    (root / "data").mkdir(parents=True)
    lines = (f"{text} {'a ' * 3 * i},{'yes' if good else 'no'}\n" for i, (text, good, _) in enumerate(sentences(60)))
    (root / "data" / "all.csv").write_text("text,label\n" + "".join(lines))
    return "csv"


EVERY = {
    **{task: found[:3] for task, found in MAKERS.items()},
    "text-classification": (text_classification, TEXT, ""),
}


class Made:
    """A recipe of one task, what was made of it up to its graph, and a second member: the same with other weights."""

    def __init__(self, task: str, root: Path) -> None:
        make, model, data = EVERY[task]
        views = '["head", "tail"]' if model == TEXT else '["identity", "hflip"]'
        if model == TEXT:
            bert(root / "bert")
        text = RECIPE.format(task=task, source=make(root), model=model, data=data, views=views)
        (root / "recipe.toml").write_text(text.partition("[ensemble]")[0])
        plain = load(root / "recipe.toml")
        self.made: dict[str, Entry] = dict(build(plain, Store(root / "store"), root / "dist", until="export").steps)
        (root / "recipe.toml").write_text(text)
        self.recipe: Recipe = load(root / "recipe.toml")
        assert self.recipe.extras.tta
        self.root, self.views = root, tuple(self.recipe.extras.tta.views)
        self.made["other"] = self.other(root / "other")

    def other(self, folder: Path) -> Entry:
        """Answers of ONNX Runtime take the place of torch's."""
        first, rng = self.made["export"].folder, np.random.default_rng(0)
        folder.mkdir()
        for file in (f for f in first.iterdir() if f.is_file()):
            (folder / file.name).write_bytes(file.read_bytes())
        model = onnx.load(folder / "model.onnx")
        for tensor in (t for t in model.graph.initializer if len(t.dims) > 1 and not t.name.startswith("preprocess/")):
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                moved = values + 0.3 * values.std() * rng.standard_normal(values.shape)
                tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
        onnx.save(model, folder / "model.onnx")
        return Entry(folder, "", 0.0)

    def chosen(self, name: str, **changed: Any) -> Entry:
        """What `choose/tta` or `choose/ensemble` finds, with what a test decides instead."""
        folder = self.root / f"choose-{name}"
        folder.mkdir(exist_ok=True)
        if name == "tta":
            ensembles.choose_tta(self.recipe, self.views, "export", self.made, folder, folder)
        else:
            ensembles.choose_members(self.recipe, {"": "train", "other": "other"}, self.made, folder, folder)
        found = read_json(folder / ensembles.CHOICE)
        write_json(folder / ensembles.CHOICE, {**found, **changed})
        return Entry(folder, "", 0.0)

    def fused(self, kind: str, exits: bool = False) -> Entry:
        folder = self.root / (f"fused-{kind}" + ("-exit" if exits else ""))
        folder.mkdir()
        parts = ("export",) if kind == "tta" else ("export", "other")
        steps = tuple(f"choose/{word}" for word in kind.split("-"))
        work = self.root / f"work-{folder.name}"
        fusing.fuse(self.recipe, f"optimize/{kind}-fp32", parts, steps, exits, self.made, folder, work)
        return Entry(folder, "", 0.0)


@pytest.fixture(scope="module", params=EVERY)
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    found = Made(request.param, tmp_path_factory.mktemp(request.param))
    two = {"indices": [0, 1], "weights": [0.7, 0.3], "exit": {"threshold": 0.6}}
    found.made["choose/tta"] = found.chosen("tta", kept=list(found.views), **two)
    found.made["choose/ensemble"] = found.chosen("ensemble", kept=["train", "other"], temperatures=[1.0, 1.3], **two)
    return found


def test_choosing_tells_of_every_voice(task: Made) -> None:
    for name in ("tta", "ensemble"):
        found = read_json(task.made[f"choose/{name}"].folder / ensembles.CHOICE)
        assert found["selected_on"] == "val"
        assert len(found["each"]) == 2
        assert found["account"]["n"] == found["tried"][0]["n"] > 10


def test_views_of_members_answer_as_their_loop_does(task: Made) -> None:
    both = Graph(task.fused("ensemble-tta").folder, "")
    [rung] = read_json(both.folder / "parity.json")
    assert rung["ok"]
    assert rung["max_abs"] < 1e-4
    feeds, answers = golden.load(both.folder / "golden.npz")
    each = [parity.run_graph(Graph(entry.folder, "").model, feeds) for entry in views_of(task)]
    heat = (1.0, 1.3)
    logits = [np.stack([np.concatenate([f["logits"] for f in each[2 * m + v]]) for v in (0, 1)]) for m in (0, 1)]
    activation = {"class": "softmax", "classes": "sigmoid", "number": "identity"}[both.signature.labels]
    members = [aggregate(z, activation, weights=(0.7, 0.3)) for z in logits]  # type: ignore[arg-type]
    if activation == "identity":
        expected = sum(w * m / t for m, w, t in zip(members, (0.7, 0.3), heat, strict=True))
    else:
        turned = [np.log(m) - (np.log1p(-m) if activation == "sigmoid" else 0) for m in members]
        scaled = np.stack([z / t for z, t in zip(turned, heat, strict=True)])
        expected = aggregate(scaled, activation, weights=(0.7, 0.3))  # type: ignore[arg-type]
    found = np.concatenate([answer[both.signature.answer] for answer in answers])
    assert np.abs(found - in_unit(np.asarray(expected), both.signature)).max() < 1e-3 * both.signature.unit


def views_of(task: Made) -> list[Entry]:
    """The graph of each member through each view alone: first member's first view, its second, …"""
    from tlcompile.optimize import fuse_tta

    found = []
    for part in ("export", "other"):
        graph = Graph(task.made[part].folder, "")
        for view in task.views:
            folder = task.root / f"alone-{part}-{view}"
            folder.mkdir(exist_ok=True)
            options = fuse_tta.Options(views=(view,), aggregation="logits")
            onnx.save(
                fuse_tta.fuse(onnx.load(graph.model), graph.signature, options, fuse_tta.special(graph.model)),
                folder / "model.onnx",
            )
            found.append(Entry(folder, "", 0.0))
    return found


def test_its_engine_is_measured_and_held_against_its_own_answers(task: Made) -> None:
    graph, engine, folder = task.fused("tta"), task.root / "engine", task.root / "evaluation"
    for place in (engine, folder):
        place.mkdir()
    options = registry.load("compile", "onnxruntime").Options()
    backends.build("onnxruntime", options, Graph(graph.folder, ""), "tta-fp32", engine)
    made = {**task.made, "graph": graph, "engine": Entry(engine, "", 0.0)}
    stages.evaluate("graph", "engine", "graph", 32, made, folder, task.root / "work")
    found = read_json(folder / "evaluation.json")
    assert found["golden"]["max_abs"] < 1e-4
    assert found["golden"]["agreement"] == 1.0
    assert found["n"] > 10


def test_an_early_exit_is_for_classes_and_tells_what_its_border_moves(task: Made) -> None:
    for kind in ("tta", "ensemble"):
        if task.recipe.task.endswith("regression"):
            with pytest.raises(RecipeError, match="is for classes"):
                task.fused(kind, exits=True)
            continue
        [rung] = read_json(task.fused(kind, exits=True).folder / "parity.json")
        assert rung["ok"]
        assert 0 <= rung["sway"]["max_abs"] <= 1


def test_all_windows_take_the_place_of_the_head_or_do_not(task: Made, tmp_path: Path) -> None:
    if not task.recipe.task.startswith("text"):
        pytest.skip("of texts")
    ensembles.choose_tta(task.recipe, ("windows:8",), "export", task.made, tmp_path, tmp_path)
    found = read_json(tmp_path / ensembles.CHOICE)
    assert set(found["each"]) == {"head", "windows:8"}
    assert found["kept"] in (["head"], ["windows:8"])
    write_json(tmp_path / ensembles.CHOICE, {**found, "kept": ["windows:8"]})
    made, folder = {**task.made, "choose/tta": Entry(tmp_path, "", 0.0)}, tmp_path / "fused"
    folder.mkdir()
    fusing.fuse(task.recipe, "optimize/tta-fp32", ("export",), ("choose/tta",), False, made, folder, tmp_path / "w")
    assert Graph(folder, "").signature.spec.max_length == 16 * 16  # type: ignore[union-attr]


def test_members_with_other_tokenizers_are_refused(tmp_path: Path) -> None:
    graphs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(name)
        graphs.append(Graph(tmp_path / name, ""))
    with pytest.raises(TlcompileError, match="different tokenizers"):
        fusing.refuse_other_inputs(graphs)
