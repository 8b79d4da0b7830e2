"""An early exit as two engines through the steps of a build: held against its graph, timed on the mix of examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.test_fusing import Made
from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.artifacts import EXIT_FILE, FIRST_VOICE, Graph, read_json
from tlcompile.pipeline import stages, timing
from tlcompile.runtime import golden
from tlcompile.store import Entry

KINDS = ("tta", "ensemble")
TASKS = ("image-multilabel", "text-classification")


@pytest.fixture(scope="module", params=TASKS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The threshold is the middle confidence, so that about half of the examples leave."""
    found = Made(request.param, tmp_path_factory.mktemp(request.param))
    graph = Graph(found.made["export"].folder, "")
    answers = np.concatenate([a["probabilities"] for a in golden.load(graph.folder / "golden.npz")[1]])
    sure = np.sort(answers.max(-1) if graph.signature.labels == "class" else np.maximum(answers, 1 - answers).min(-1))
    middle = float(sure[len(sure) // 2 - 1 :][:2].mean())
    two = {"indices": [0, 1], "weights": [0.7, 0.3], "exit": {"threshold": middle}}
    found.made["choose/tta"] = found.chosen("tta", kept=list(found.views), **two)
    found.made["choose/ensemble"] = found.chosen("ensemble", kept=["train", "other"], temperatures=[1.0, 1.0], **two)
    for kind in KINDS:
        found.made[f"optimize/{kind}-exit-fp32"] = found.fused(kind, exits=True)
        folder = found.root / f"engine-{kind}"
        folder.mkdir()
        options = registry.load("compile", "onnxruntime").Options(threads=1, early_exit="split")
        source = Graph(found.made[f"optimize/{kind}-exit-fp32"].folder, "")
        backends.build("onnxruntime", options, source, f"{kind}-exit-fp32", folder)
        found.made[f"compile/onnxruntime/{kind}-exit-fp32"] = Entry(folder, "", 0.0)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_its_engines_are_held_against_the_graph_with_the_branch(made: Made, kind: str, tmp_path: Path) -> None:
    graph, engine = f"optimize/{kind}-exit-fp32", f"compile/onnxruntime/{kind}-exit-fp32"
    assert read_json(made.made[graph].folder / EXIT_FILE)["threshold"] > 0
    assert (made.made[engine].folder / "rest" / "model.onnx").exists()
    assert FIRST_VOICE in [t["name"] for t in read_json(made.made[engine].folder / "rest" / "signature.json")["inputs"]]
    stages.evaluate(graph, engine, graph, 32, made.made, tmp_path, tmp_path / "work")
    found = read_json(tmp_path / "evaluation.json")
    assert found["golden"]["max_abs"] < 1e-3 + found["golden"]["sway"]
    assert all(rung["ok"] for rung in read_json(tmp_path / "parity.json"))


def test_it_is_timed_on_different_examples_alone_and_in_batches(made: Made, tmp_path: Path) -> None:
    engines = tuple(f"compile/onnxruntime/{kind}-exit-fp32" for kind in KINDS)
    timing.latency(made.recipe, engines, made.made, tmp_path, tmp_path)
    found = read_json(tmp_path / "latency.json")["engines"]
    for name in engines:
        assert found[name]["batches"]["1"]["examples"] > 5
        assert found[name]["batches"]["1"]["examples_mean_ms"] > 0
        assert found[name]["batches"][str(made.recipe.evaluate.batch_size)]["p50_ms"] > 0


class Listed(list[np.ndarray]):
    """Examples in memory."""


def test_a_batch_is_of_different_examples_that_fit_into_one_feed() -> None:
    small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    split = Listed([large if i % 3 == 0 else small + i for i in range(12)])
    batches = timing.mixed(split, 4, 5)
    assert len(batches) == 3
    for batch in batches:
        assert len({example.shape for example in batch}) == 1
    assert len({example[0, 0, 0] for example in batches[0]}) == 4
    assert timing.mixed(split, 9, 5) == []
    assert len(timing.mixed(split, 4, 1)) == 1
