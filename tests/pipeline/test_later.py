"""A target that is built on its device: what a build does without its library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from tlcompile.compile import tensorrt
from tlcompile.errors import BackendMissing
from tlcompile.pipeline.build import check_backends
from tlcompile.pipeline.plan import plan
from tlcompile.recipe import load
from tlcompile.store import Store

TARGET = '[[compile]]\nbackend = "tensorrt"\nname = "jetson"\nfinalize = {}\nprofiles = [{{ batch = [1, 8, 16] }}]'


def recipe(folder: Path, finalize: bool) -> Path:
    return tiny.recipe(folder / "tiny.toml", extra=TARGET.format(json.dumps(finalize)))


def test_only_a_target_that_is_built_here_needs_its_library(tmp_path: Path) -> None:
    if not tensorrt.missing():
        pytest.skip("TensorRT is installed here")
    check_backends(load(recipe(tmp_path, finalize=True)))
    with pytest.raises(BackendMissing, match="pip install tensorrt"):
        check_backends(load(recipe(tmp_path, finalize=False)))


def test_its_key_names_no_device_of_this_machine(tmp_path: Path) -> None:
    path = tiny.recipe(tmp_path / "tiny.toml", extra='[[compile]]\nbackend = "openvino"\nfinalize = true')
    steps = {step.name: step for step in plan(load(path), Store(tmp_path / "store"))}
    assert steps["compile/openvino/fp32"].parts()["device"] == {}
    assert steps["compile/onnxruntime/fp32"].parts()["device"] != {}
