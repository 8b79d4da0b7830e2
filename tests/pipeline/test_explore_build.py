"""`[optimize] explore` through the command line, on a tiny real network."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import folder, recipe
from tlcompile.artifacts import read_json
from tlcompile.runtime import load as open_bundle

PRUNE = """
[compress.prune]
speedup = 1.02
importance = "magnitude"
measured_costs = false
max_channel_sparsity = 0.9
epochs = 1
"""
EXPLORE = "[optimize.explore]\nspeedups = [2000, 1000]\nthreads = [1, 2]\nbudget_minutes = "
LINES = ("", "pruned-1.02x-")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    root: Path

    @property
    def bundle(self) -> Path:
        return self.root / "dist" / "tiny"

    def build(self, minutes: float, gates: str = "") -> dict[str, Any]:
        """What `tlcompile build --json` says."""
        extra = f"{PRUNE}{EXPLORE}{minutes}\n[gates]\nmax_accuracy_drop = 1.0\n{gates}"
        # At 32 pixels a cut gains no more than what a busy machine's times are off by.
        path = recipe(self.root / "tiny.toml", epochs=1, quantize=False, extra=extra, image_size=64)
        options = ["--store", str(self.root / "store"), "--output", str(self.bundle), "--json", "--quiet"]
        command = [sys.executable, "-m", "tlcompile", "build", str(path), *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


def done_now(built: dict[str, Any]) -> set[str]:
    return {step["step"] for step in built["steps"] if not step["cached"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("explore")
    folder(root / "data")
    return Place(root)


@pytest.fixture(scope="module")
def built(place: Place) -> dict[str, Any]:
    return place.build(minutes=60)


def test_every_line_and_thread_count_is_measured_and_one_engine_of_all_ships(built: dict[str, Any]) -> None:
    rows = built["report"]["variants"]
    assert {r["engine"] for r in rows} == {f"compile/onnxruntime@{t}/{n}fp32" for t in (1, 2) for n in LINES}
    assert {r["threads"] for r in rows} == {1, 2}
    assert all(r["latency"]["batch_1"]["p50_ms"] > 0 and r["why"] for r in rows)
    [ships] = [r for r in rows if r["chosen"]]
    assert ships["latency"]["batch_1"]["p50_ms"] == min(r["latency"]["batch_1"]["p50_ms"] for r in rows)
    assert ships["frontier"]


def test_a_speedup_out_of_reach_is_kept_as_rejected_with_the_best_that_is_possible(
    built: dict[str, Any], place: Place
) -> None:
    explored = built["report"]["explored"]
    assert explored["speedups"] == [1.02, 1000.0, 2000.0]
    rejected, not_tried = explored["left_out"]
    assert (rejected["line"], rejected["verdict"]) == ("pruned-1000x", "rejected")
    assert rejected["why"].startswith("1000 can't be reached on onnxruntime/fp32: the best is ")
    assert (not_tried["line"], not_tried["verdict"]) == ("pruned-2000x", "not tried")
    assert read_json(place.bundle / "manifest.json")["explored"] == explored
    [row] = [x for x in (place.bundle / "report.md").read_text().splitlines() if x.startswith("| `pruned-1000x` |")]
    assert row.endswith(f"| rejected: {rejected['why']} |")
    assert "compress/prune-1.02x" in built["report"]["compression"]


def test_the_picture_has_the_frontier(built: dict[str, Any], place: Place) -> None:
    pixels = np.asarray(Image.open(place.bundle / "pictures" / "variants.png").convert("L"))
    assert (pixels < 128).mean() > 0.001


def test_the_bundle_has_one_engine_under_the_recipes_name(built: dict[str, Any], place: Place) -> None:
    with open_bundle(place.bundle, "onnxruntime") as model:
        assert model.self_test().ok
    assert [f.name for f in (place.bundle / "engines").iterdir()] == ["onnxruntime"]
    shown = [v for v in read_json(place.bundle / "manifest.json")["variants"] if v["shipped"]]
    assert [v["target"] for v in shown] == ["onnxruntime"]


def test_a_rerun_does_nothing(built: dict[str, Any], place: Place) -> None:
    assert done_now(place.build(minutes=60)) == set()


def test_a_smaller_budget_keeps_what_it_has_time_for_and_the_choice_is_by_the_gates(
    built: dict[str, Any], place: Place
) -> None:
    sizes = {r["variant"]: r["size_mb"] for r in built["report"]["variants"]}
    assert sizes["pruned-1.02x-fp32"] < sizes["fp32"]
    allowed = sum(sizes.values()) / 2
    less = place.build(minutes=0.001, gates=f"max_size_mb = {allowed}\n")
    assert [(o["verdict"], o["why"]) for o in less["report"]["explored"]["left_out"]] == [
        ("not tried", "the budget of 0.001 minutes was spent")
    ] * 2
    assert not {"compress/prune-1.02x", "compile/onnxruntime@1/pruned-1.02x-fp32"} & done_now(less)
    rows = {r["engine"]: r for r in less["report"]["variants"]}
    assert [r["variant"] for r in rows.values() if r["chosen"]] == ["pruned-1.02x-fp32"]
    assert "the gate max_size_mb is" in rows["compile/onnxruntime@1/fp32"]["why"]
    assert [gate["passed"] for gate in less["report"]["gates"]] == [True, True]
