from __future__ import annotations

import sys
from pathlib import Path

import pytest
import toy_bundle

from tlcompile.errors import BackendMissing, BundleError
from tlcompile.runtime.model import load


@pytest.fixture(scope="session")
def for_an_npu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose only engine is for a device that a test machine does not have."""
    work = tmp_path_factory.mktemp("npu")
    return toy_bundle.build(work / "toy", work / "made", ("openvino",), device="NPU")


def test_the_first_engine_of_the_manifest_runs(built: Path) -> None:
    with load(built) as model:
        assert model.engine == "openvino"
        assert model.notes == ()


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "model.onnx"])
def test_the_engine_that_is_asked_for_runs(built: Path, target: str) -> None:
    with load(built, target) as model:
        assert model.engine == target


def test_an_unknown_engine_is_refused_with_the_nearest_name(built: Path) -> None:
    with pytest.raises(BundleError, match=r"no engine is called 'openvno'.*did you mean 'openvino'"):
        load(built, "openvno")


def test_an_engine_that_cannot_run_is_passed_over_with_a_reason(for_an_npu: Path) -> None:
    with load(for_an_npu) as model:
        assert model.engine == "model.onnx"
        assert model.notes[0].startswith("openvino: does not run here: OpenVINO sees no NPU here")
        assert model.notes[1].startswith("running the portable model.onnx")
        assert model.self_test().ok


def test_an_engine_that_is_asked_for_is_never_replaced(for_an_npu: Path) -> None:
    with pytest.raises(BackendMissing, match="openvino: does not run here: OpenVINO sees no NPU"):
        load(for_an_npu, "openvino")


def test_where_nothing_runs_every_reason_is_named(for_an_npu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing) as caught:
        load(for_an_npu)
    assert [problem.where for problem in caught.value.problems] == ["openvino", "onnxruntime"]


def test_another_machine_than_the_measured_one_is_named(bundle: Path) -> None:
    engines = toy_bundle.read_manifest(bundle)["engines"]
    engines[0]["device"]["cpu"] = "an abacus"
    toy_bundle.rewrite_manifest(bundle, engines=engines)
    with load(bundle) as model:
        assert model.notes[0].startswith("openvino: measured on another machine: cpu was 'an abacus', here '")


def test_options_that_the_backend_does_not_know_are_a_reason_not_a_crash(bundle: Path) -> None:
    engines = toy_bundle.read_manifest(bundle)["engines"]
    engines[0]["options"] = {"devce": "CPU"}
    engines[1]["backend"] = "of-another-time"
    toy_bundle.rewrite_manifest(bundle, engines=engines)
    with load(bundle) as model:
        assert model.engine == "model.onnx"
        assert "devce" in model.notes[0]
        assert "'of-another-time' is not one of" in model.notes[1]
