"""A whole build for a device whose engine takes one example a call, made ahead of time where that can't run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import folder, recipe
from tlcompile.package.verify import verify
from tlcompile.pipeline.build import build
from tlcompile.recipe import load
from tlcompile.runtime import load as open_bundle
from tlcompile.store import Store

RTX = """
[[compile]]
backend = "tensorrt_rtx"
compute_capability = ["sm86"]
batch = [1, 1, 1]
image_px = [16, 32, 64]
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx")
    root = tmp_path_factory.mktemp("one")
    folder(root / "data")
    path = recipe(root / "recipe.toml", epochs=1, extra=RTX, quantize=False)
    build(load(path), Store(root / "store"), root / "dist")
    return root / "dist"


@pytest.fixture(scope="module")
def report(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "report.json").read_text())
    return found


def test_its_engine_is_built_judged_and_shipped_like_others(bundle: Path, report: dict[str, Any]) -> None:
    rows = {row["backend"]: row for row in report["variants"]}
    assert rows["tensorrt_rtx"]["measured_in"].startswith("onnxruntime: ")
    assert rows["tensorrt_rtx"]["n"] == rows["onnxruntime"]["n"] == 12
    assert rows["onnxruntime"]["latency"]["batch_8"]["n"] == 20
    assert {rung["rung"]: rung["n"] for rung in report["parity"]}["compile/tensorrt_rtx/fp32"] == 12
    assert len(verify(bundle)) == 4
    with open_bundle(bundle) as model:
        assert model.self_test().ok


def test_its_layers_and_their_kernels_are_in_the_report(bundle: Path, report: dict[str, Any]) -> None:
    [(plan, layers)] = report["layers"].items()
    assert plan == "compile/tensorrt_rtx/fp32 sm86"
    written = json.loads((bundle / "engines" / "tensorrt_rtx" / "layers-sm86.json").read_text())
    assert layers == written
    product = next(layer for layer in layers[:30] if layer["kind"] == "correlation")
    page = (bundle / "report.md").read_text()
    section = page[page.index("## Layers") : page.index("## Parity")]
    assert f"`{plan}`, {len(layers)} layers: " in section
    assert product["inputs"][0] == "Float"
    assert f"| correlation | {', '.join(product['inputs'])} | `{product['tactic']}` |" in section
