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
from pydantic import ValidationError

from tlcompile import progress
from tlcompile.artifacts import Graph
from tlcompile.compile import _driver, _nvidia, _profiles, _timing, tensorrt
from tlcompile.compile.tensorrt import Options
from tlcompile.errors import TlcompileError
from tlcompile.options import Options as BaseOptions

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")  # of its timing cache
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
    files = [str(ROOM / name) for name in ("tensorrt.py", "_timing.py", "_nvidia.py", "_nvidia_runner.py", "_slot.py")]
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
        Options(weights="stripped", editable_timing=True, sparse_weights=True),
    ],
)
def test_what_the_options_set_is_read_back_from_a_real_builder(options: Options) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(_nvidia.logger(trt, _nvidia.Log()))
    config = builder.create_builder_config()
    tensorrt._configure(trt, config, options)
    assert config.builder_optimization_level == options.builder_optimization_level
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE) == options.version_compatibility
    for flag in (trt.BuilderFlag.STRIP_PLAN, trt.BuilderFlag.REFIT_IDENTICAL):
        assert config.get_flag(flag) == (options.weights == "stripped")
    assert config.get_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE) == options.editable_timing
    assert config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS) == options.sparse_weights
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
        flags: list[bool] = []

        def configure(config: Any, flags: list[bool] = flags) -> None:
            flags.append(config.get_flag(trt.BuilderFlag.TF32))
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.SM86, 0)

        network.build("test", _profiles.shapes(Options(), toy_graphs.TEXT), allowed, configure)
        assert flags == [allowed]


def test_the_timing_cache_is_a_path_of_the_recipe(tmp_path: Path) -> None:
    options: BaseOptions = Options.model_validate({"timing_cache": "times.bin"}, context={"base": tmp_path})
    assert isinstance(options, Options)
    assert options.timing_cache is not None
    assert options.timing_cache.absolute == tmp_path / "times.bin"  # type: ignore[attr-defined]


def config_of(trt: Any) -> Any:
    """A builder's configuration; the builder lives as long."""
    builder = trt.Builder(_nvidia.logger(trt, _nvidia.Log()))
    config = builder.create_builder_config()
    kept.append(builder)
    return config


kept: list[Any] = []


def test_a_timing_cache_goes_round_through_files(tmp_path: Path) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    config = config_of(trt)
    _timing.use(config, "tensorrt", None)
    paths = [tmp_path / "engine" / "timing.cache", tmp_path / "recipe.cache"]
    _timing.keep(config, paths)
    first = paths[0].read_bytes()
    assert first == paths[1].read_bytes() != b""
    _timing.use(config, "tensorrt", paths[1])
    _timing.keep(config, paths)
    assert paths[0].read_bytes() == first
    assert sorted(f.name for f in tmp_path.rglob("*") if f.is_file()) == ["recipe.cache", "timing.cache"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[{", "not a list of edits"),
        ('[{"key": "a", "tactic": 1}]', "entry 0: found {'key': 'a', 'tactic': 1}, expected an object with key"),
        ('{"key": "a"}', "entry 0: "),
        ('[{"key": "a", "tactic": "x", "ms": 1}, 3]', "entry 1: found 3"),
    ],
)
def test_wrong_edits_of_a_timing_cache_are_told(text: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "edits.json").write_text(text)
    with pytest.raises(TlcompileError) as caught:
        _timing.read_edits(tmp_path / "edits.json")
    assert wrong in str(caught.value)


def test_edits_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "edits.json").write_text('[{"key": "conv: 1x3", "tactic": 7, "ms": 0.25}]')
    assert _timing.read_edits(tmp_path / "edits.json") == [("conv: 1x3", 7, 0.25)]


def test_edits_need_an_editable_cache() -> None:
    with pytest.raises(ValidationError, match="timing_edits needs editable_timing"):
        Options(timing_edits="edits.json")


def header() -> str:
    """NVIDIA's own header of the driver, as triton or a CUDA package ships it."""
    for package, place in (("triton", "backends/nvidia/include"), ("nvidia", "cu13/include")):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(root) / place / "cuda.h").is_file():
                return path.read_text(errors="replace")
    pytest.skip("no cuda.h here")


def test_every_call_of_the_driver_is_declared_as_in_its_header() -> None:
    import ctypes

    text = header()
    renamed = dict(re.findall(r"#define (cu\w+)\s+(?:__CUDA_API_PTSZ\(|__CUDA_API_PTDS\()?(cu\w+_v\d)\)?", text))
    declared: dict[str, list[str]] = {}
    for name, arguments in re.findall(r"^CUresult CUDAAPI (cu\w+)\(([^)]*)\)", text, re.MULTILINE):
        declared.setdefault(renamed.get(name, name), [part.strip() for part in arguments.split(",")])
        declared.setdefault(name, [part.strip() for part in arguments.split(",")])
    for name, types in _driver._CALLS.items():
        found = declared.get(name) or declared[re.sub(r"_v\d$|WithFlags$", "", name)]
        assert len(found) == len(types), (name, found)
        for ours, theirs in zip(types, found, strict=True):
            pointer = "*" in theirs or re.match(r"CU(context|stream|graph|graphExec)\b", theirs) is not None
            ours_is = ours is ctypes.c_void_p or ours is ctypes.c_char_p or hasattr(ours, "contents")
            assert pointer == ours_is, (name, theirs, ours)


def test_a_version_that_does_not_fit_drops_the_times_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX takes any bytes for a timing cache; TensorRT refuses those of another version by returning False."""
    trt: Any = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(progress, "quiet", False)
    (tmp_path / "old.cache").write_bytes(b"of another version")

    class Refusing:
        """The real configuration, which says no to times that are not its own."""

        def __init__(self) -> None:
            self.real = config_of(trt)

        def create_timing_cache(self, times: bytes) -> Any:
            return self.real.create_timing_cache(times) if not times else None

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            return bool(self.real.set_timing_cache(cache, ignore_mismatch))

    config: Any = Refusing()
    _timing.use(config, "tensorrt", tmp_path / "old.cache")
    assert config.real.get_timing_cache() is not None  # an empty one
    assert "old.cache is damaged or of another GPU or version: dropped, times anew" in capsys.readouterr().err


INSPECTED = """{"Layers": [
{"Name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1",
 "LayerType": "CaskConvolution",
 "Inputs": [{"Name": "gpu_0/res3_3_branch2c_bn_3", "Dimensions": [16,512,28,28], "Format/Datatype":
             "Thirty-two wide channel vectorized row major Int8 format."}],
 "Outputs": [{"Name": "gpu_0/res4_0_branch2a_bn_2", "Dimensions": [16,256,28,28], "Format/Datatype":
              "Thirty-two wide channel vectorized row major Int8 format."}],
 "ParameterType": "Convolution", "Kernel": [1,1], "OutMaps": 256, "Groups": 1,
 "Weights": {"Type": "Int8", "Count": 131072}, "Bias": {"Type": "Float", "Count": 256},
 "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32",
 "TacticValue": "0x11bde0e1d9f2f35d"},
{"Name": "Reformatting CopyNode for Input Tensor 0 to conv", "LayerType": "Reformat",
 "Inputs": [{"Name": "x", "Location": "Device", "Dimensions": [1,3,224,224], "Format/Datatype":
             "Row major linear FP16 format"}],
 "Outputs": [], "ParameterType": "Reformat", "Origin": "REFORMAT", "TacticValue": "0x00000000000003ea", "Metadata": ""},
{"Name": "__myl_CastAdd", "LayerType": "kgen", "Inputs": [{"Name": "a", "Format/Datatype": "Half"},
 {"Name": "b", "DataType": "Float", "Format": "Row major linear FP32 format (kLINEAR)"}], "Outputs": []},
{"Name": "signal", "LayerType": "Signal"}],
"Bindings": ["x", "y"]}"""
"""The documented form, with a layer of NVIDIA's developer guide, and an input as TensorRT 11 describes it."""


def test_what_the_inspector_says_becomes_layers_with_their_kernels_and_types() -> None:
    convolution, reformat, fused, signal = _nvidia.layers_of_inspector(INSPECTED)
    assert convolution == {
        "name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1",
        "kind": "CaskConvolution",
        "tactic": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32",
        "inputs": ["Int8"],
    }
    assert (reformat["tactic"], reformat["inputs"]) == ("0x00000000000003ea", ["FP16"])
    assert (fused["tactic"], fused["inputs"]) == ("", ["Half", "Float"])
    assert signal == {"name": "signal", "kind": "Signal", "tactic": "", "inputs": []}
