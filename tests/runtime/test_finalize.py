"""Engines that wait for their device: built, proven and timed on this machine, which is the device here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy_bundle
import toy_graphs

from tlcompile.artifacts import read_json
from tlcompile.errors import BundleError, GateError, ParityError, TlcompileError
from tlcompile.fingerprint import file_digest
from tlcompile.package import manifest as manifests
from tlcompile.package.verify import verify
from tlcompile.runtime.finalize import failed, finalize
from tlcompile.runtime.model import load

GATES = [
    {"name": "max_latency_p50_ms", "target": "openvino", "limit": 5000.0, "value": None, "verdict": "deferred"},
    {"name": "max_latency_p99_ms", "target": "openvino", "limit": 1e-6, "value": None, "verdict": "deferred"},
    {"name": "max_latency_p50_ms", "target": "other", "limit": 1.0, "value": None, "verdict": "deferred"},
    {"name": "min_accuracy", "target": "openvino", "limit": 0.8, "value": 0.9, "verdict": "passed"},
]


@pytest.fixture(params=["openvino", "onnxruntime"])
def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bundle whose one engine is to be finalized."""
    return toy_bundle.build(tmp_path / "toy", tmp_path / "made", (request.param,), finalize=True)


@pytest.fixture
def for_openvino(tmp_path: Path) -> Path:
    bundle = toy_bundle.build(tmp_path / "toy", tmp_path / "made", ("openvino",), finalize=True)
    toy_bundle.rewrite_manifest(bundle, gates=GATES)
    return bundle


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_bundle_that_waits_answers_by_its_portable_graph_and_says_why(waiting: Path) -> None:
    with load(waiting) as model:
        assert model.engine == "model.onnx"
        assert "tlcompile finalize BUNDLE" in model.notes[0]


def test_finalizing_builds_proves_and_writes_a_new_manifest(waiting: Path, tmp_path: Path) -> None:
    before = files_of(waiting)
    result = finalize(waiting, tmp_path / "done", runs=30)
    assert files_of(waiting) == before
    assert len(verify(tmp_path / "done")) == 4
    entry = manifests.read(tmp_path / "done").engines[0]
    (found,) = result["engines"].values()
    assert entry.measured["finalized"]["latency"] == found["latency"]
    assert found["latency"]["n"] == 30
    assert found["self_test"]["ok"]
    assert entry.runs_here
    assert entry.options["finalize"] is False
    assert entry.device == read_json(tmp_path / "done" / entry.folder / "engine.json")["device"] != {}
    assert found["memory_mib"] is None or 20 < found["memory_mib"] < 2000
    with load(tmp_path / "done") as model:
        assert (model.engine, model.notes) == (entry.name, ())
        assert model.self_test().ok


def test_in_place_the_bundle_is_replaced_and_nothing_is_left_beside_it(waiting: Path) -> None:
    beside = {f.name for f in waiting.parent.iterdir()}
    finalize(waiting, runs=20)
    assert {f.name for f in waiting.parent.iterdir()} == beside
    verify(waiting)
    with pytest.raises(BundleError, match=r"no engine of it waits for its device; --target builds one of"):
        finalize(waiting)


def test_an_engine_that_is_named_is_built_anew(built: Path, tmp_path: Path) -> None:
    result = finalize(built, tmp_path / "done", target="onnxruntime", runs=20)
    assert list(result["engines"]) == ["onnxruntime"]
    with pytest.raises(BundleError, match="did you mean 'openvino'"):
        finalize(built, tmp_path / "again", target="openvno")


def test_gates_on_latency_are_judged_on_the_device_and_others_left_alone(for_openvino: Path) -> None:
    result = finalize(for_openvino, runs=20)
    gates = {(g.target, g.name): g for g in manifests.read(for_openvino).gates}
    met, missed = gates["openvino", "max_latency_p50_ms"], gates["openvino", "max_latency_p99_ms"]
    assert (met.verdict, missed.verdict) == ("passed", "failed")
    assert met.value == result["engines"]["openvino"]["latency"]["p50_ms"] > 0
    assert "measured on the device over 20 calls" in missed.why
    assert gates["other", "max_latency_p50_ms"].verdict == "deferred"
    assert gates["openvino", "min_accuracy"].value == 0.9
    assert [problem.where for problem in failed(result)] == ["openvino"]
    shipped = next(v for v in manifests.read(for_openvino).variants if v.target == "openvino")
    assert (shipped.executed, shipped.latency_p50_ms) == (True, met.value)


def test_an_engine_that_answers_otherwise_leaves_the_bundle_as_it_was(waiting: Path, tmp_path: Path) -> None:
    """Its graph is another network than the golden answers are of."""
    other = toy_graphs.image_graph(tmp_path / "other", channels=8)
    manifest = toy_bundle.read_manifest(waiting)
    path = manifest["engines"][0]["folder"] + "/graph.onnx"
    (waiting / path).write_bytes(other.model.read_bytes())
    manifest["files"][path], manifest["sizes"][path] = file_digest(waiting / path), (waiting / path).stat().st_size
    toy_bundle.rewrite_manifest(waiting, **manifest)
    before, beside = files_of(waiting), {f.name for f in waiting.parent.iterdir()}
    with pytest.raises(ParityError, match=r"built here it does not answer as it was proven to: .*FAILED"):
        finalize(waiting, runs=20)
    assert files_of(waiting) == before
    assert {f.name for f in waiting.parent.iterdir()} == beside


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a limit can be held on Linux only")
def test_a_build_that_takes_more_memory_than_it_may_is_ended(for_openvino: Path) -> None:
    before = files_of(for_openvino)
    with pytest.raises(TlcompileError, match="building openvino: ended: it took more than the 12 MiB of memory"):
        finalize(for_openvino, memory_mib=12)
    assert files_of(for_openvino) == before


def test_an_existing_folder_is_not_written_over(waiting: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is there already"):
        finalize(waiting, tmp_path)


def test_a_place_that_cannot_be_written_is_told(waiting: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="can't be written: Not a directory"):
        finalize(waiting, tmp_path / "file" / "done")


def test_a_damaged_bundle_is_not_finalized(waiting: Path) -> None:
    (waiting / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="changed: 0 bytes"):
        finalize(waiting)


def test_a_device_without_the_library_is_told_what_to_install(tmp_path: Path) -> None:
    bundle = toy_bundle.build(tmp_path / "toy", tmp_path / "made", ("tensorrt",), finalize=True)
    from tlcompile.compile import tensorrt

    if not tensorrt.missing():
        pytest.skip("TensorRT is installed here")
    with pytest.raises(TlcompileError, match="pip install tensorrt"):
        finalize(bundle)
    with load(bundle) as model:
        assert model.engine == "model.onnx"


def test_the_timing_cache_of_the_recipe_goes_along(tmp_path: Path) -> None:
    (tmp_path / "times.bin").write_bytes(b"times")
    from tlcompile import compile as backends
    from tlcompile.compile.tensorrt import Options

    options = Options.model_validate({"finalize": True, "timing_cache": "times.bin"}, context={"base": tmp_path})
    (tmp_path / "engine").mkdir()
    backends.build("tensorrt", options, toy_graphs.image_graph(tmp_path / "graph"), "fp32", tmp_path / "engine")
    assert (tmp_path / "engine" / "timing.cache").read_bytes() == b"times"
    there: Any = backends.on_device("tensorrt", options, tmp_path / "engine")
    assert there.timing_cache.absolute == tmp_path / "engine" / "timing.cache"
    assert there.finalize is False


def test_the_bundle_finalizes_itself_with_the_runtime_that_it_carries(for_openvino: Path) -> None:
    command = [sys.executable, str(for_openvino / "predict.py"), "--finalize"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 5, done.stderr  # one gate can't be met
    assert "openvino: built in" in done.stdout
    assert "self-test passed on 3 golden examples" in done.stdout
    assert not list(for_openvino.rglob("*.pyc"))
    verify(for_openvino)


def test_the_command_prints_what_it_did_and_fails_by_its_gates(
    for_openvino: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tlcompile.cli import finalize as command

    with pytest.raises(GateError, match="openvino: max_latency_p99_ms 1e-06: "):
        command(for_openvino, None, "", None, 20, as_json=True)
    assert json.loads(capsys.readouterr().out)["engines"]["openvino"]["self_test"]["ok"]


def test_the_manifest_says_which_builds_are_not_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = toy_bundle.build(tmp_path / "toy", tmp_path / "made", ("tensorrt_rtx",), compute_capability=("sm86",))
    assert manifests.read(bundle).engines[0].reproducible is False
