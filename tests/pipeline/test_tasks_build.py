"""Every task from data to a bundle that answers without torch: several labels and numbers, for images and texts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.tiny import MODEL, bert
from tlcompile.artifacts import read_json
from tlcompile.cli import app
from tlcompile.pipeline.build import build
from tlcompile.pipeline.evaluate import evaluate
from tlcompile.recipe import load
from tlcompile.store import Store

RECIPE = """name = "{task}"
[data]
task = "{task}"
source = "{source}"
path = "{path}"
split = {{ train = 0.6, val = 0.2, test = 0.2 }}
calibration = 16
{data}
[model]
{model}
[train]
epochs = {epochs}
batch_size = 8
lr = 5e-3
[optimize.quantize]
min_agreement = 0.0
[[compile]]
backend = "onnxruntime"
[evaluate]
latency_runs = 20
[gates]
{gates}
"""
TEXT = 'library = "transformers"\nname = "./bert"\nmax_length = 16'
IMAGE = "\n".join(f"{k} = {json.dumps(v)}" for k, v in MODEL.items())


def picture(left: int, red: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [24, 32, 3], noise with a left half and a red channel that are brighter by these amounts."""
    pixels = rng.integers(0, 60, (24, 32, 3))
    pixels[:, :16] += left
    pixels[..., 0] += red
    return pixels.clip(0, 255).astype(np.uint8)


def pictures(root: Path, row: Callable[[int, np.random.Generator], tuple[int, int, str]], head: str, n: int) -> None:
    """`root/labels.csv` and its images."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = [head]
    for i in range(n):
        left, red, label = row(i, rng)
        Image.fromarray(picture(left, red, rng)).save(root / "images" / f"{i:03}.png")
        lines.append(f"images/{i:03}.png,{label}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def image_multilabel(root: Path) -> str:
    def row(i: int, rng: np.random.Generator) -> tuple[int, int, str]:
        left, red = i % 2, (i // 2) % 2
        return 150 * left, 150 * red, "|".join(["left"] * left + ["red"] * red)

    pictures(root / "data", row, "file,labels", 80)
    return "folder"


def image_regression(root: Path) -> str:
    def row(i: int, rng: np.random.Generator) -> tuple[int, int, str]:
        bright = int(rng.integers(0, 180))
        return bright, bright, str(1000 + bright)

    pictures(root / "data", row, "file,brightness", 100)
    return "folder"


def sentences(n: int = 120) -> list[tuple[str, int, int]]:
    """(text, whether it holds 'good', whether it holds 'film')"""
    rng = np.random.default_rng(0)
    flags = [(i % 2, (i // 2) % 2) for i in range(n)]
    words = [["a", "very", "not", *(["good"] if good else []), *(["film"] if film else [])] for good, film in flags]
    return [(" ".join(rng.permutation(w)), good, film) for w, (good, film) in zip(words, flags, strict=True)]


def text_multilabel(root: Path) -> str:
    rows = "".join(f"{text},{good},{film}\n" for text, good, film in sentences())
    (root / "data").mkdir(parents=True)
    (root / "data" / "all.csv").write_text("text,praise,cinema\n" + rows)
    return "csv"


def text_regression(root: Path) -> str:
    rows = [{"text": text, "stars": -2.5 + 3 * good + 0.5 * film} for text, good, film in sentences()]
    (root / "data").mkdir(parents=True)
    (root / "data" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "jsonl"


MAKERS = {
    "image-multilabel": (image_multilabel, IMAGE, "", 8),
    "image-regression": (image_regression, IMAGE, 'label = "brightness"', 14),
    "text-multilabel": (text_multilabel, TEXT, 'label_columns = ["praise", "cinema"]', 10),
    "text-regression": (text_regression, TEXT, 'label = "stars"', 10),
}


class Built:
    """A finished bundle of one task."""

    def __init__(self, task: str, root: Path) -> None:
        make, model, data, epochs = MAKERS[task]
        self.task, self.root, self.bundle = task, root, root / "dist"
        if model == TEXT:
            bert(root / "bert")
        text = RECIPE.format(
            task=task,
            source=make(root),
            path="data",
            model=model,
            data=data,
            epochs=epochs,
            gates="min_accuracy = 0.3\nmax_accuracy_drop = 0.9",
        )
        (root / "recipe.toml").write_text(text)
        build(load(root / "recipe.toml"), Store(root / "store"), self.bundle)
        self.number = task.endswith("regression")

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.bundle / "manifest.json")

    @property
    def report(self) -> dict[str, Any]:
        return read_json(self.bundle / "report.json")

    @property
    def items(self) -> list[str]:
        if self.task.startswith("text"):
            return ["a very good film", "a very film", "a not"]
        return [str(self.root / "data" / "images" / f"{i:03}.png") for i in range(3)]


@pytest.fixture(scope="module", params=MAKERS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(request.param, tmp_path_factory.mktemp(request.param))


def test_it_learns_and_its_headline_has_its_own_name(built: Built) -> None:
    report = built.report
    assert report["metric"] == ("R²" if built.number else "label accuracy")
    assert all(row["accuracy"] > 0.5 and row["n"] >= 16 for row in report["variants"])
    names = {"mae", "rmse", "spearman"} if built.number else {"exact_match", "micro_f1", "macro_f1"}
    assert names < set(report["metrics"])
    assert report["confusion"] == []
    assert all(rung["ok"] and rung["labels"] == ("number" if built.number else "classes") for rung in report["parity"])
    page = (built.bundle / "report.md").read_text()
    assert f"| {report['metric']} |" in page
    assert (built.bundle / "pictures" / "predictions.png").exists() == built.number
    assert report["metric"] in (built.bundle / "README.md").read_text()


def test_the_manifest_keeps_the_promised_keys_and_the_gates_were_judged(built: Built) -> None:
    manifest = built.manifest
    known = {"image-multilabel": ["left", "red"], "text-multilabel": ["praise", "cinema"]}
    assert manifest["classes"] == known.get(built.task, [])
    for variant in manifest["variants"]:
        assert variant["accuracy_low"] <= variant["accuracy"] <= variant["accuracy_high"] <= 1
        assert variant["executed"]
    assert [gate["verdict"] for gate in manifest["gates"]] == ["passed"] * 2
    signature = read_json(built.bundle / "signature.json")
    assert signature["labels"] == ("number" if built.number else "classes")
    outputs = {t["name"]: t["shape"] for t in signature["outputs"]}
    assert outputs == {"logits": ["batch", 1], "values": ["batch", 1]} or set(outputs) == {"logits", "probabilities"}


def test_the_bundle_answers_alone_and_passes_its_self_test(built: Built) -> None:
    command = [sys.executable, "predict.py"]
    done = subprocess.run([*command, *built.items], cwd=built.bundle, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    if built.number:
        target = built.manifest["signature"]["target"]
        assert all(abs(line["value"] - target["mean"]) < 4 * target["std"] for line in lines)
    else:
        for line in lines:
            assert set(line["labels"]) == {c for c, p in line["probabilities"].items() if p > 0.5}
    tested = subprocess.run([*command, "--self-test"], cwd=built.bundle, capture_output=True, text=True, check=True)
    assert "passed" in tested.stdout


def test_it_is_evaluated_on_labelled_data_and_agrees_with_itself(built: Built) -> None:
    found = evaluate(built.bundle, built.root / "data", "")
    assert found["n"] in (80, 100, 120)
    assert found["metric"] == built.report["metric"]
    assert found["accuracy"] > 0.5
    told = CliRunner().invoke(app, ["evaluate", str(built.bundle), "--data", str(built.root / "data")])
    assert told.output.startswith(f"{found['metric']} {found['accuracy']:.4f}  (95 % interval")
    verified = CliRunner().invoke(app, ["verify", str(built.bundle)])
    assert built.task in verified.output
    assert "passed on" in verified.output


def test_a_number_is_in_its_own_unit(built: Built) -> None:
    if not built.number:
        pytest.skip("gives no number")
    target, metrics = built.manifest["signature"]["target"], built.report["metrics"]
    assert target["mean"] == pytest.approx({"image-regression": 1088, "text-regression": -0.75}[built.task], rel=0.02)
    assert metrics["rmse"] < target["std"]
    pairs = np.array(built.report["predictions"])
    assert abs(pairs[:, 1].mean() - target["mean"]) < target["std"]
