"""The full TensorRT does not install here. Its file is checked against the stubs of 10.13, and what it sets against the
real library that is nearest: TensorRT-RTX 1.7, whose Python names are those of TensorRT 11.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_graphs

from tlcompile.artifacts import Graph
from tlcompile.compile import _nvidia, tensorrt
from tlcompile.compile.tensorrt import Options
from tlcompile.options import Options as BaseOptions

ROOM = Path(tensorrt.__file__).parent
Graphs = Callable[[str], Graph]


def repaired_stubs(folder: Path) -> Path:
    """`tensorrt-stubs` without the three slips that stop mypy: a keyword as a name, defaults out of order, `bool`."""
    for package in ("tensorrt", "tensorrt_bindings"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip("pip install tensorrt-stubs")
        for stub in Path(next(iter(spec.submodule_search_locations))).glob("*.pyi"):
            text = stub.read_text()
            text = re.sub(r"\bin: list", "in_: list", text)
            text = text.replace("channel_axis: int) -> IScaleLayer", "channel_axis: int = 0) -> IScaleLayer")
            text = re.sub(r"(: |-> )bool\b", r"\1builtins.bool", text)
            text = text.replace("import typing\n", "import typing\nimport builtins\n", 1)
            (folder / package).mkdir(exist_ok=True)
            (folder / package / stub.name).write_text(text)
    return folder


def test_the_code_fits_the_stubs_of_tensorrt_10(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    files = [str(ROOM / name) for name in ("tensorrt.py", "_nvidia.py", "_nvidia_runner.py", "_driver.py")]
    options = ["--strict", "--follow-imports=silent", "--ignore-missing-imports", f"--cache-dir={tmp_path / 'cache'}"]
    check = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *files],
        env={**os.environ, "MYPYPATH": str(repaired_stubs(tmp_path))},
        cwd=ROOM.parents[1],
        capture_output=True,
        text=True,
    )
    assert "Found" in check.stdout or "Success" in check.stdout, check.stdout + check.stderr
    ours = [line for line in check.stdout.splitlines() if line.startswith(("tlcompile", str(ROOM)))]
    assert ours == []


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(builder_optimization_level=0, workspace_mib=256, version_compatibility=True),
    ],
)
def test_what_the_options_set_is_read_back_from_a_real_builder(options: Options) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(_nvidia.logger(trt, _nvidia.Log()))
    config = builder.create_builder_config()
    tensorrt._configure(trt, config, options)
    assert config.builder_optimization_level == options.builder_optimization_level
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE) == options.version_compatibility
    if options.workspace_mib:
        assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == options.workspace_mib * 2**20


def test_both_libraries_have_every_name_that_is_shared() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    source = (ROOM / "_nvidia.py").read_text()
    names = re.findall(r"^ {8}(\w+): (?:type\[stubs|Callable)", source, re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if not hasattr(trt, name)] == []


def test_an_fp32_product_is_exact_unless_the_recipe_allows_tf32(graphs: Graphs) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    network = _nvidia.Network(trt, "test", graphs("text").model)
    for allowed in (False, True):
        flags = []

        def configure(config: Any, flags: list[bool] = flags) -> None:
            flags.append(config.get_flag(trt.BuilderFlag.TF32))
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.SM86, 0)

        network.build("test", _nvidia.shapes(Options(), toy_graphs.TEXT), allowed, configure)
        assert flags == [allowed]


def test_the_timing_cache_is_a_path_of_the_recipe(tmp_path: Path) -> None:
    options: BaseOptions = Options.model_validate({"timing_cache": "times.bin"}, context={"base": tmp_path})
    assert isinstance(options, Options)
    assert options.timing_cache is not None
    assert options.timing_cache.absolute == tmp_path / "times.bin"  # type: ignore[attr-defined]
