"""Builds whose answer is that of several views and networks, at the scale of `tests/tiny.py`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import recipe
from tlcompile.artifacts import read_json
from tlcompile.errors import RecipeError
from tlcompile.pipeline import contenders
from tlcompile.pipeline.build import Built, build
from tlcompile.pipeline.ensembles import CHOICE
from tlcompile.pipeline.plan import plan
from tlcompile.recipe import Recipe, load
from tlcompile.runtime import load as open_bundle
from tlcompile.store import Store

ALL = """
[tta]
views = ["identity", "hflip", "vflip"]
max_slowdown = 50.0
[ensemble]
members = 2
max_slowdown = 50.0
"""


def halves(root: Path, per_class: int = 60) -> Path:
    """Pictures whose left (class left) or right half is a little brighter: a mirrored view is of the other class."""
    rng = np.random.default_rng(0)
    for name, half in (("left", slice(0, 16)), ("right", slice(16, 32))):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 160, (32, 32, 3))
            pixels[:, half] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03}.png")
    return root


@dataclass(frozen=True)
class Place:
    root: Path
    built: Built

    @property
    def report(self) -> dict[str, Any]:
        assert self.built.report is not None
        return self.built.report

    def choice(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = read_json(dict(self.built.steps)[f"choose/{name}"].folder / CHOICE)
        return found

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["variant"]: row for row in self.report["variants"]}


def told(root: Path, extra: str, variants: tuple[str, ...] = (), **changed: Any) -> Recipe:
    """The recipe; `variants` are the only ones that it builds."""
    root.mkdir(parents=True, exist_ok=True)
    path = recipe(root / "recipe.toml", extra=extra, **changed)
    backend = 'backend = "onnxruntime"'
    named = f"{backend}\nvariants = {list(variants)}" if variants else backend
    path.write_text(path.read_text().replace(backend, named))
    return load(path)


def built(root: Path, extra: str, variants: tuple[str, ...] = (), until: str = "package", **changed: Any) -> Place:
    asked = told(root, extra, variants, **changed)
    return Place(root, build(asked, Store(root / "store"), root / "dist", until=until))


def planned(recipe: Recipe, root: Path) -> set[str]:
    """The engines of a build."""
    return {step.name.rpartition("/")[2] for step in plan(recipe, Store(root / "store")) if step.stage == "compile"}


KEPT = ("fp32", "int8", "soup-fp32", "tta-int8", "ensemble-fp32", "ensemble-tta-int8")
"""One engine of each kind, both precisions of the network as trained."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("ensemble")
    halves(root / "data")
    return built(root, ALL, KEPT, epochs=3, train="lr = 5e-3")


def test_every_kind_is_built_in_every_precision(place: Place) -> None:
    kinds = ("", "soup-", "tta-", "ensemble-", "ensemble-tta-")
    every = {kind + precision for kind in kinds for precision in ("fp32", "int8")}
    asked = told(place.root / "plan", ALL)
    assert planned(asked, place.root) == every
    exits = {f"{kind}-exit-{precision}" for kind in ("tta", "ensemble") for precision in ("fp32", "int8")}
    asked = told(place.root / "plan", ALL.replace("max_slowdown", "early_exit = true\nmax_slowdown"))
    assert planned(asked, place.root) == every | exits


def test_a_backend_without_branches_leaves_early_as_two_engines_and_the_report_says_so(place: Place) -> None:
    split = '[[compile]]\nbackend = "openvino"\nearly_exit = "split"'
    asked = told(place.root / "plan", f'[tta]\nearly_exit = true\n[[compile]]\nbackend = "tensorrt_rtx"\n{split}')
    engines = [step.name for step in plan(asked, Store(place.root / "store")) if step.stage == "compile"]
    assert {f"compile/{name}/tta-exit-int8" for name in ("onnxruntime", "tensorrt_rtx", "openvino")} <= set(engines)
    found = contenders.in_two(asked)
    assert [sentence.partition(":")[0] for sentence in found] == ["tensorrt_rtx", "openvino"]
    assert all("leaves early as two engines" in sentence for sentence in found)
    assert contenders.in_two(told(place.root / "plan", '[tta]\n[[compile]]\nbackend = "tensorrt_rtx"')) == []


def test_every_engine_is_measured_and_one_ships(place: Place) -> None:
    assert set(place.rows) == set(KEPT)
    for row in place.rows.values():
        assert row["latency"]["batch_1"]["p50_ms"] > 0
        assert row["n"] == 24
        assert row["corrected"] >= 0 <= row["corrupted"]
        assert row["why"].startswith(("ships: ", "dropped: "))
    assert sum(row["chosen"] for row in place.rows.values()) == 1


def test_a_view_that_turns_the_class_round_is_found_out_by_measurement(place: Place) -> None:
    choice = place.choice("tta")
    assert "hflip" not in choice["kept"]
    [mirrored] = [row for row in choice["tried"] if row["name"] == "hflip"]
    assert not mirrored["kept"]
    assert mirrored["alone"]["corrupted"] > mirrored["alone"]["corrected"]


def test_members_are_chosen_on_validation_with_weights_and_temperatures(place: Place) -> None:
    choice = place.choice("ensemble")
    assert choice["selected_on"] == "val"
    assert set(choice["each"]) == {"train", "member-2"}
    assert len(choice["temperatures"]) == len(choice["kept"]) >= 1
    assert sum(choice["weights"] or [1.0]) == pytest.approx(1, abs=1e-5)
    assert set(choice["diversity"]) == {"disagreement", "q_statistic"}


def test_a_fused_graph_is_held_against_a_loop_over_its_parts(place: Place) -> None:
    names = {rung["rung"] for rung in place.report["parity"]}
    fp32 = {"optimize/tta-fp32", "optimize/ensemble-fp32", "optimize/ensemble-tta-fp32"}
    assert fp32 <= names  # of int8 engines too: their golden answers are those of fp32
    assert sum(name.startswith(("optimize/tta-int8", "optimize/ensemble-tta-int8")) for name in names) == 2
    assert all(rung["ok"] for rung in place.report["parity"])


def test_the_bundle_answers_alone_and_passes_its_self_test(place: Place) -> None:
    with open_bundle(place.root / "dist") as model:
        assert model.self_test().ok
    command = [sys.executable, "predict.py", str(place.root / "data" / "left" / "000.png")]
    done = subprocess.run(command, cwd=place.root / "dist", capture_output=True, text=True, check=True)
    assert '"label"' in done.stdout


def test_nothing_is_done_twice(place: Place) -> None:
    again = built(place.root, ALL, KEPT, epochs=3, train="lr = 5e-3")
    assert [name for name, entry in again.built.steps if not entry.cached] == []


def test_another_budget_makes_the_report_alone_again(place: Place) -> None:
    again = built(place.root, ALL.replace("50.0", "1.01"), KEPT, epochs=3, train="lr = 5e-3")
    assert [name for name, entry in again.built.steps if not entry.cached] == ["report", "package"]


def plan_mistake(root: Path, extra: str) -> str:
    halves(root / "data", 20)
    with pytest.raises(RecipeError) as caught:
        built(root, extra)
    return str(caught.value)


def test_a_view_that_the_task_forbids_is_told_before_any_work(tmp_path: Path) -> None:
    said = plan_mistake(tmp_path, '[tta]\nviews = ["identity", "middle", "hflp"]')
    assert "'middle' is a view of texts" in said
    assert "did you mean 'hflip'?" in said


def test_an_ensemble_larger_than_the_gate_is_told_before_training(tmp_path: Path) -> None:
    said = plan_mistake(tmp_path, "max_size_mb = 0.01\n[ensemble]".join(["[gates]\n", ""]))
    assert "3 members hold at least" in said
    assert "gates.max_size_mb = 0.01" in said


def test_a_bundle_of_other_classes_is_no_member(place: Place, tmp_path: Path) -> None:
    said = plan_mistake_with_bundle(tmp_path, place.root / "dist")
    assert "has other classes than the data" in said
    assert "it lacks 'dark'" in said


def plan_mistake_with_bundle(root: Path, bundle: Path) -> str:
    from tests.tiny import folder

    folder(root / "data", 20)
    with pytest.raises(RecipeError) as caught:
        built(root, f'[ensemble]\n[[ensemble.member]]\nbundle = "{bundle}"', epochs=1)
    return str(caught.value)


STUDENT = """
[ensemble]
members = 2
soup = false
max_slowdown = 50.0
[distill]
epochs = 1
"""


def test_a_student_learns_what_the_ensemble_says_of_the_training_examples(place: Place) -> None:
    variants = ("student-fp32", "student-int8")
    taught = built(place.root, STUDENT, variants, epochs=3, train="lr = 5e-3")
    fresh = {name for name, entry in taught.built.steps if not entry.cached}
    assert {"distill/teacher", "train/student", "export/student"} <= fresh
    assert not {"train", "train/member-2", "export"} & fresh
    assert set(taught.rows) == set(variants)
    steps = dict(taught.built.steps)
    answers = np.load(steps["distill/teacher"].folder / "train.npy")
    assert answers.shape == (72, 2)
    assert answers.dtype == np.float32
    student = steps["train/student"].folder
    assert len(read_json(student / "history.json")) == 1
    assert read_json(student / "applied.json") != read_json(steps["train"].folder / "applied.json")


def test_the_bundle_of_another_build_teaches_and_joins(place: Place, tmp_path: Path) -> None:
    bundle = place.root / "dist"
    extra = f'[distill]\nteacher = "{bundle}"\nepochs = 1\n[ensemble]\n[[ensemble.member]]\nbundle = "{bundle}"'
    halves(tmp_path / "data")
    joined = built(tmp_path, extra, until="optimize", epochs=1, quantize=False)
    assert {"distill/teacher", "export/student", "optimize/ensemble-fp32"} <= set(dict(joined.built.steps))
    assert set(joined.choice("ensemble")["each"]) == {"train", "member-2"}


def test_a_teacher_of_other_classes_or_inputs_is_refused(place: Place, tmp_path: Path) -> None:
    from tests.tiny import folder

    folder(tmp_path / "data", 20)
    teacher = place.root / "dist"
    with pytest.raises(RecipeError, match=r"distill\.teacher: has other classes than the data: it lacks 'dark'"):
        built(tmp_path, f'[distill]\nteacher = "{teacher}"', epochs=1)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((dict(place.built.steps)["train"].folder / "model.safetensors").read_bytes())
    with pytest.raises(RecipeError, match="can't be read as ONNX"):
        built(tmp_path, '[distill]\nteacher = "alone.onnx"', epochs=1)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_unlabelled_pictures_join_the_training_and_those_of_the_test_split_do_not(
    place: Place, tmp_path: Path, labels: str
) -> None:
    from tests.tiny import folder, image
    from tlcompile.data import Split

    folder(tmp_path / "data", 30)
    rng = np.random.default_rng(7)
    (tmp_path / "more").mkdir()
    for i in range(12):
        Image.fromarray(image(i % 2, rng)).save(tmp_path / "more" / f"{i:02}.png")
    for path in sorted((tmp_path / "data" / "dark").glob("*.png")):
        Image.open(path).save(tmp_path / "more" / f"{path.stem}.bmp")
    extra = f'[pseudo_labels]\npath = "more"\nthreshold = 0.5\ntop_k = 5\nlabels = "{labels}"'
    found = built(tmp_path, extra, until="train", epochs=2, quantize=False, train="lr = 5e-3")
    steps = dict(found.built.steps)
    told = read_json(steps["pseudo/1"].folder / "pseudo.json")
    assert told["left_out"]["in test"] > 0
    assert sum(told["left_out"].values()) == 30
    joined = sum(told["joined"].values())
    assert 1 <= joined <= 10
    names = Split(steps["pseudo/1"].folder, "train").ids
    assert len(names) == len(Split(steps["data"].folder, "train")) + joined
    assert all(name.endswith(".png") for name in names[-joined:])
    assert (steps["pseudo/1"].folder / "train.npy").exists() == (labels == "soft")
    assert "train/round-1" in steps


def test_what_is_trained_on_everything_was_chosen_by_networks_that_were_not(tmp_path: Path) -> None:
    halves(tmp_path / "data", 20)
    keys: dict[str, Any] = {"epochs": 1, "quantize": False, "train": "retrain_full = true"}
    full = built(tmp_path, ALL, until="optimize", **keys)
    names = [name for name, _ in full.built.steps]
    assert {"train/before", "train/before-member-2", "export/before"} <= set(names)
    engines = {"fp32", "tta-fp32", "ensemble-fp32", "ensemble-tta-fp32"}
    assert planned(load(tmp_path / "recipe.toml"), tmp_path) == engines
    steps = dict(full.built.steps)
    with np.load(steps["train/before"].folder / "reference.npz") as reference:
        assert "val_logits" in reference
    with np.load(steps["train"].folder / "reference.npz") as reference:
        assert "val_logits" not in reference
    notes = [note for note in contenders.told(contenders.choices(steps)) if "trained without val" in note]
    assert len(notes) == 2
