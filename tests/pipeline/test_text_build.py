"""A text recipe, from a csv to a bundle that classifies sentences without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import bert
from tlcompile.pipeline.build import build
from tlcompile.recipe import load
from tlcompile.store import Store

RECIPE = """name = "films"
[data]
task = "text-classification"
source = "csv"
path = "films.csv"
split = { train = 0.6, val = 0.2, test = 0.2 }
calibration = 16
[model]
library = "transformers"
name = "./bert"
max_length = 16
[train]
epochs = 6
batch_size = 8
lr = 1e-2
schedule = "constant"
[optimize.quantize]
[[compile]]
backend = "openvino"
[[compile]]
backend = "onnxruntime"
variants = ["int8"]
[evaluate]
latency_runs = 20
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("text")
    bert(root / "bert")
    fillers = ["a film", "very", "a", "film film", "a very"]
    rows = [
        f"{'bad' if i % 2 else 'good'} {fillers[i % 5]} {'film ' * (i % 7)},{'no' if i % 2 else 'yes'}"
        for i in range(120)
    ]
    (root / "films.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (root / "recipe.toml").write_text(RECIPE)
    build(load(root / "recipe.toml"), Store(root / "store"), root / "dist")
    return root / "dist"


def test_sentences_of_any_length_are_classified_by_the_bundle_alone(bundle: Path) -> None:
    command = [sys.executable, "predict.py", "good film", "a very bad film " * 40]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=True)
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["yes", "no"]


def test_every_engine_was_held_against_its_graph_and_measured(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    assert {r["engine"] for r in report["variants"]} == {
        "compile/openvino/fp32",
        "compile/openvino/int8",
        "compile/onnxruntime/int8",
    }
    assert all(row["latency"]["batch_1"]["n"] >= 20 and row["accuracy"] == 1.0 for row in report["variants"])
    assert all(rung["ok"] for rung in report["parity"])


def test_the_signature_names_the_inputs_with_dynamic_batch_and_length(bundle: Path) -> None:
    signature = json.loads((bundle / "signature.json").read_text())
    assert {t["name"]: t["shape"] for t in signature["inputs"]} == {
        "input_ids": ["batch", "tokens"],
        "attention_mask": ["batch", "tokens"],
    }
