"""Views of long documents through the command line: what stands behind the network's last token is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from tests.tiny import bert
from tlcompile.artifacts import Signature, read_json
from tlcompile.cli import app
from tlcompile.optimize import fuse_tta
from tlcompile.package import manifest as manifests
from tlcompile.runtime import golden
from tlcompile.runtime.choose import choose
from tlcompile.runtime.model import Model

RECIPE = """name = "reviews"
[data]
task = "text-classification"
source = "csv"
path = "reviews.csv"
split = { train = 0.6, val = 0.2, test = 0.2 }
calibration = 8
[model]
library = "transformers"
name = "./bert"
max_length = 12
[train]
epochs = 8
batch_size = 16
lr = 1e-2
schedule = "constant"
[tta]
views = ["head", "tail"]
max_slowdown = 50.0
early_exit = true
[[compile]]
backend = "onnxruntime"
name = "plain"
variants = ["fp32"]
[[compile]]
backend = "onnxruntime"
name = "whole"
variants = ["tta-fp32"]
[[compile]]
backend = "onnxruntime"
name = "brief"
variants = ["fp32", "tta-fp32", "tta-exit-fp32"]
[evaluate]
latency_runs = 40
"""
LONG = "a film very a film " * 8


def rows(count: int = 360) -> list[tuple[str, str]]:
    """Every third text is long. The one telling word is the last of each, so that it stands at any place."""
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        good = bool(rng.integers(2))
        words = rng.integers(20, 60) if i % 3 == 0 else rng.integers(1, 10)
        filler = " ".join(rng.choice(["a", "film", "very"], int(words)))
        found.append((f"{filler} {'good' if good else 'bad'}", "yes" if good else "no"))
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents")
    bert(root / "bert")
    (root / "reviews.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows()))
    (root / "recipe.toml").write_text(RECIPE)
    command = ["build", str(root / "recipe.toml"), "--output", str(root / "dist"), "--store", str(root / "store")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return root / "dist"


def said(bundle: Path, target: str, text: str) -> str:
    done = CliRunner().invoke(app, ["predict", str(bundle), text, "--target", target])
    assert done.exit_code == 0, done.output
    return str(json.loads(done.output.splitlines()[-1])["label"])


def test_the_end_of_a_long_document_is_read_with_views_and_not_without(bundle: Path) -> None:
    found = {target: [said(bundle, target, LONG + word) for word in ("good", "bad")] for target in ("plain", "whole")}
    assert found["whole"] == ["yes", "no"]
    assert found["plain"][0] == found["plain"][1]


def row(bundle: Path, target: str, variant: str) -> dict[str, Any]:
    report = read_json(bundle / "report.json")
    return next(r for r in report["variants"] if (r["target"], r["variant"]) == (target, variant))


def test_it_is_measured_on_whole_documents(bundle: Path) -> None:
    plain, whole = row(bundle, "plain", "fp32"), row(bundle, "whole", "tta-fp32")
    assert whole["accuracy"] > plain["accuracy"] + 0.1
    assert whole["corrected"] > 5 > whole["corrupted"]
    assert read_json(bundle / "engines" / "whole" / "signature.json")["spec"]["max_length"] == 16 * 12
    feeds, _ = golden.load(bundle / "golden" / "whole.npz")
    assert max(feed["input_ids"].shape[1] for feed in feeds) > 12


def test_an_early_exit_answers_as_well_and_is_timed_on_real_documents(bundle: Path) -> None:
    exits, whole = row(bundle, "brief", "tta-exit-fp32"), row(bundle, "brief", "tta-fp32")
    assert exits["accuracy"] >= whole["accuracy"] - 0.05, "two of 48 unseen documents"
    single = exits["latency"]["batch_1"]
    assert (single["examples"], single["n"]) == (10, 40)
    assert single["mean_ms"] > 0 < single["p99_ms"]
    [told] = read_json(bundle / "report.json")["early_exit"]
    assert (told["engine"], told["mean_ms"]) == (exits["engine"], single["examples_mean_ms"])
    assert 0.2 < told["left"] < 1
    chosen = next(point for point in told["curve"] if point["left"] == told["left"])
    assert chosen["score"] == told["curve"][0]["score"], "none is lost where the threshold was chosen"
    assert told["curve"][0]["mean_ms"] == told["all_ms"]
    assert told["curve"][-1]["mean_ms"] == pytest.approx(told["first_ms"])
    assert told["curve"][-1]["score"] < told["curve"][0]["score"] - 0.1
    assert "## Early exit" in (bundle / "report.md").read_text()
    assert (bundle / "pictures" / "early_exit.png").exists()


def opened(bundle: Path, target: str) -> Model:
    manifest = manifests.read(bundle)
    return Model(bundle, manifest, choose(bundle, manifest, target))


@pytest.mark.parametrize("target", ["plain", "whole", "brief", "model.onnx"])
def test_the_self_test_is_as_tight_as_that_of_a_single_network(bundle: Path, target: str) -> None:
    with opened(bundle, target) as model:
        result = model.self_test()
    assert result.ok
    assert result.max_abs < 1e-4
    assert result.tolerance.max_abs < 0.011 or target == "brief"


def wrong_view(engine: Path, plain: Path) -> onnx.ModelProto:
    signature = Signature.from_json(read_json(plain / "signature.json"))
    options = fuse_tta.Options(views=("head", "middle"))
    return fuse_tta.fuse(onnx.load(plain / "model.onnx"), signature, options, fuse_tta.special(plain / "model.onnx"))


def wrong_weight(engine: Path, plain: Path) -> onnx.ModelProto:
    """One row of the classifier's 64 weights has lost its sign."""
    model = onnx.load(engine / "model.onnx")
    head = next(i for i in model.graph.initializer if "classifier" in i.name and len(i.dims) == 2)
    values = onnx.numpy_helper.to_array(head).copy()
    values[0] = np.abs(values[0])
    head.CopyFrom(onnx.numpy_helper.from_array(values, head.name))
    return model


def wrong_mean(engine: Path, plain: Path) -> onnx.ModelProto:
    """The tail hardly counts."""
    signature = Signature.from_json(read_json(plain / "signature.json"))
    options = fuse_tta.Options(views=("head", "tail"), weights=(0.95, 0.05))
    return fuse_tta.fuse(onnx.load(plain / "model.onnx"), signature, options, fuse_tta.special(plain / "model.onnx"))


@pytest.mark.parametrize("wrong", [wrong_view, wrong_weight, wrong_mean])
def test_a_wrong_view_or_weight_fails_the_self_test(bundle: Path, tmp_path: Path, wrong: Any) -> None:
    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    engine = spoilt / "engines" / "whole"
    model = wrong(engine, spoilt / "engines" / "plain")
    onnx.save(model, engine / "model.onnx")
    with opened(spoilt, "whole") as spoiled:
        assert not spoiled.self_test().ok
