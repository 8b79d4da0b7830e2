"""Where only the head is trained, what it is fed is a step of its own: done again only where it would be another."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.tiny import folder, recipe
from tlcompile.pipeline.build import Built, build
from tlcompile.pipeline.plan import plan
from tlcompile.pipeline.stages import job
from tlcompile.pipeline.step import look
from tlcompile.recipe import load
from tlcompile.store import Store

HEAD = 'trainable = "head"\n'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("features")
    folder(found / "data")
    return found


def trained(root: Path, train: str = HEAD, epochs: int = 2, model: str = "test_efficientnet") -> Built:
    path = recipe(root / "recipe.toml", epochs=epochs, train=train)
    path.write_text(path.read_text().replace("test_efficientnet", model))
    return build(load(path), Store(root / "store"), root / "dist" / "tiny", "train")


def done_now(built: Built) -> set[str]:
    return {name for name, entry in built.steps if not entry.cached}


@pytest.fixture(scope="module")
def first(root: Path) -> Built:
    built = trained(root)
    time.sleep(2.1)  # so that the digest of the data folder is remembered
    return built


def test_the_step_stands_between_data_and_train_and_keeps_a_row_of_features_for_each_example(first: Built) -> None:
    assert [name for name, _ in first.steps] == ["data", "features", "train"]
    stored = dict(first.steps)["features"].folder
    shapes = {f.name: np.load(f).shape for f in stored.glob("*.npy")}
    rows = {name: shape[0] for name, shape in shapes.items()}
    assert rows == {"train.npy": 36, "val.npy": 12}
    assert len({shape[1] for shape in shapes.values()}) == 1


def test_the_trained_head_stands_in_the_network_that_later_steps_read(root: Path, first: Built) -> None:
    steps = dict(first.steps)
    state = load_file(steps["train"].folder / "model.safetensors")
    network = job(load(recipe(root / "recipe.toml", train=HEAD)), steps).network()
    moved = {name for name, value in network.module.state_dict().items() if not value.equal(state[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    history = json.loads((steps["train"].folder / "history.json").read_text())
    with np.load(steps["train"].folder / "reference.npz") as reference:
        right = reference["val_logits"].argmax(-1) == reference["val_labels"]
    assert right.mean() == pytest.approx(history[-1]["val_accuracy"])


@pytest.mark.parametrize(("key", "epochs"), [("lr = 0.01", 2), ('loss = "focal"', 2), ("", 3)])
def test_another_rate_loss_or_number_of_epochs_computes_no_features_again(
    root: Path, first: Built, key: str, epochs: int
) -> None:
    assert done_now(trained(root, HEAD + key, epochs)) == {"train"}


def test_another_network_computes_them_again(root: Path, first: Built) -> None:
    assert done_now(trained(root, model="test_resnet")) == {"features", "train"}


def test_a_whole_network_is_trained_without_the_step(root: Path, first: Built) -> None:
    assert [name for name, _ in trained(root, train="").steps] == ["data", "train"]


def test_the_plan_shows_the_step_and_why_it_is_to_be_done(root: Path, first: Built) -> None:
    loaded = load(recipe(root / "recipe.toml", train=HEAD))
    store = Store(root / "store")
    seen = {found.step.name: found for found in look(plan(loaded, store), store, loaded.name)}
    assert seen["features"].entry is not None
    path = recipe(root / "recipe.toml", train=HEAD)
    path.write_text(path.read_text().replace('name = "test_efficientnet"', 'name = "test_vit"'))
    loaded = load(path)
    seen = {found.step.name: found for found in look(plan(loaded, store), store, loaded.name)}
    assert seen["features"].entry is None
    assert any("test_vit" in reason for reason in seen["features"].reasons)
    assert seen["train"].reasons == ("after features",)
