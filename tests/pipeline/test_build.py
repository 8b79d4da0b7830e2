"""A whole build of a tiny real recipe, and what is done again after which change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import folder, recipe
from tlcompile.errors import GateError
from tlcompile.pipeline.build import Built, build
from tlcompile.pipeline.evaluate import evaluate
from tlcompile.recipe import load
from tlcompile.runtime import load as open_bundle
from tlcompile.store import Store


@dataclass(frozen=True)
class Place:
    root: Path

    def build(self, until: str = "package", **changed: object) -> Built:
        path = recipe(self.root / "recipe.toml", **changed)  # type: ignore[arg-type]
        return build(load(path), Store(self.root / "store"), self.root / "dist" / "tiny", until)


def done_now(built: Built) -> set[str]:
    return {name for name, entry in built.steps if not entry.cached}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("build")
    folder(root / "data")
    found = Place(root)
    found.build()
    return found


@pytest.fixture(scope="module", autouse=True)
def settled(place: Place) -> None:
    time.sleep(2.1)  # so that the digest of the data folder is remembered
    place.build()


def test_the_first_build_does_every_step_and_leaves_a_bundle_that_predicts(place: Place) -> None:
    bundle = place.root / "dist" / "tiny"
    with open_bundle(bundle) as model:
        assert model.self_test().ok
        pictures = sorted((place.root / "data").glob("*/00*.png"))
        right = [p.label == f.parent.name for p, f in zip(model.predict(pictures), pictures, strict=True)]
    assert len(right) == 20
    report = json.loads((bundle / "report.json").read_text())
    assert report["applied"]["epochs"] == 2
    assert {r["rung"] for r in report["parity"]} == {
        "export",
        "optimize/simplify",
        next(r["rung"] for r in report["parity"] if "quantize" in r["rung"]),
        "compile/onnxruntime/fp32",
        "compile/onnxruntime/int8",
        "compile/onnxruntime/fp32 (exact pixels)",
        "compile/onnxruntime/int8 (exact pixels)",
    }
    assert sum(row["chosen"] for row in report["variants"]) == 1


def test_a_second_build_does_nothing(place: Place) -> None:
    assert done_now(place.build()) == set()


def test_a_second_build_imports_no_heavy_library(place: Place) -> None:
    code = (
        "import sys; from tlcompile.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'timm', 'transformers', 'openvino', 'pyarrow'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    recipe(place.root / "recipe.toml")
    arguments = ["build", "recipe.toml", "--store", "store", "--output", "dist/tiny"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=place.root, capture_output=True, text=True, check=True
    )
    assert "0 done now" in done.stdout
    assert "heavy: []" in done.stdout


def test_other_gates_repeat_the_report_and_the_bundle_alone(place: Place) -> None:
    assert done_now(place.build(extra="[gates]\nmin_accuracy = 0.1")) == {"report", "package"}


def test_other_quantization_repeats_no_training(place: Place) -> None:
    again = done_now(place.build(until="compile", quantize=False))
    assert again == set()
    path = recipe(place.root / "recipe.toml")
    path.write_text(path.read_text().replace("[optimize.quantize]", "[optimize.quantize]\nmin_agreement = 0.5"))
    steps = build(load(path), Store(place.root / "store"), place.root / "dist" / "tiny", "compile")
    names = done_now(steps)
    assert "compile/onnxruntime/int8" in names
    assert not names & {"data", "train", "export", "compile/onnxruntime/fp32"}


def test_another_epoch_repeats_training_and_not_the_data(place: Place) -> None:
    again = done_now(place.build(until="train", epochs=3))
    assert again == {"train"}


def test_a_failed_gate_publishes_nothing_keeps_the_report_and_the_older_bundle(place: Place) -> None:
    place.build()
    bundle = place.root / "dist" / "tiny"
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(GateError, match=r"onnxruntime: max_size_mb = 1e-06: .* MB") as caught:
        place.build(extra="[gates]\nmax_size_mb = 1e-6")
    assert caught.value.exit_code == 5
    assert (bundle / "manifest.json").read_bytes() == before
    assert "max_size_mb" in (place.root / "dist" / "tiny.failed" / "report.md").read_text()
    place.build()
    assert not (place.root / "dist" / "tiny.failed").exists()


def test_a_bundle_is_evaluated_on_other_data(place: Place, tmp_path: Path) -> None:
    place.build()
    result = evaluate(place.root / "dist" / "tiny", folder(tmp_path / "new", 5), "")
    assert (result["n"], result["split"]) == (10, "all")


def test_one_byte_of_one_image_repeats_everything(tmp_path: Path) -> None:
    place = Place(tmp_path)
    data = folder(tmp_path / "data")
    place.build(until="export", epochs=1)
    picture = next(iter(sorted(data.glob("dark/*.png"))))
    pixels = np.asarray(Image.open(picture)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(picture)
    assert done_now(place.build(until="export", epochs=1)) == {"data", "train", "export"}


def test_a_build_that_was_killed_goes_on_and_repeats_nothing_finished(tmp_path: Path) -> None:
    folder(tmp_path / "data")
    recipe(tmp_path / "recipe.toml", epochs=4)
    command = [sys.executable, "-m", "tlcompile", "build", "recipe.toml", "--store", "store", "--until", "train"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("store/work/*/at-*")):
        assert child.poll() is None, "the build ended before it could be killed"
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "resuming after epoch" in again.stderr
    assert "data …" not in again.stderr
    assert not list(tmp_path.glob("store/*/*.tmp"))


def test_ctrl_c_ends_with_130_and_the_next_build_goes_on(tmp_path: Path) -> None:
    folder(tmp_path / "data")
    recipe(tmp_path / "recipe.toml", epochs=50)
    command = [sys.executable, "-m", "tlcompile", "build", "recipe.toml", "--store", "store", "--until", "train"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not list(tmp_path.glob("store/work/*/at-*")):
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert list(tmp_path.glob("store/work/*/at-*"))
