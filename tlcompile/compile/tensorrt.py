"""TensorRT 10 and 11: an engine for the NVIDIA GPU that builds it, from a strongly typed network.

Timing kernels is most of a build, so their times can be kept in a timing cache. Builds are not reproducible to the bit:
which kernel wins depends on measured times.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tlcompile.artifacts import Graph, Runner, write_json
from tlcompile.compile import _cuda, _nvidia
from tlcompile.errors import BackendMissing, Problem, TlcompileError
from tlcompile.options import Field, PathText, RecipePath

if TYPE_CHECKING:
    import tensorrt as stubs

PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_BACKEND, _PLAN = "tensorrt", "engine.trt"
_COMPATIBILITY = Literal["none", "ampere_plus", "same_compute_capability"]

NOT_IN_KEY = ("timing_cache",)  # it grows with every build


class Options(_nvidia.ProfileOptions):
    builder_optimization_level: int = Field(3, ge=0, le=5, description="5 searches longest for the fastest kernels")
    workspace_mib: int | None = Field(None, ge=1, description="GPU memory for kernels; all of it where not given")
    hardware_compatibility: _COMPATIBILITY = Field("none", description="other GPUs that the engine shall run on")
    version_compatibility: bool = Field(False, description="let later TensorRT versions run the engine")
    timing_cache: RecipePath | None = Field(None, description="file of kernel times: read where it fits, then extended")


def dialect(options: Options) -> str:
    return "tensorrt"


def missing() -> str:
    spec = importlib.util.find_spec("tensorrt")
    return "TensorRT is not installed: pip install tensorrt" if spec is None or spec.origin is None else ""


def runs_here(options: Options) -> str:
    return _cuda.why_no_gpu()


def device(options: Options) -> dict[str, str]:
    return _cuda.facts()


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """`engine.trt` and the inspector's `layers.json`."""
    import tensorrt as trt

    if reason := _cuda.why_no_gpu():
        raise BackendMissing(Problem(_BACKEND, f"an engine is built on the GPU that runs it, and there is {reason}"))
    _cuda.gpu().use()
    network = _nvidia.Network(trt, _BACKEND, graph.model)
    kept: list[stubs.IBuilderConfig] = []

    def configure(config: stubs.IBuilderConfig) -> None:
        _configure(trt, config, options)
        kept.append(config)

    plan = network.build(_cuda.gpu().capability, _nvidia.shapes(options, graph.signature), options.tf32, configure)
    (folder / _PLAN).write_bytes(plan)
    if isinstance(options.timing_cache, PathText):
        _keep_times(kept[0], options.timing_cache.absolute)
    layers = _layers(trt, network, folder / _PLAN)
    write_json(folder / "layers.json", layers)
    return {"bytes": (folder / _PLAN).stat().st_size, "layers": len(layers)}


def _configure(trt: _nvidia.TensorRT, config: stubs.IBuilderConfig, options: Options) -> None:
    config.builder_optimization_level = options.builder_optimization_level
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    level = options.hardware_compatibility.upper()
    if not hasattr(trt.HardwareCompatibilityLevel, level):
        what = f"this TensorRT has no hardware_compatibility '{options.hardware_compatibility}'"
        raise TlcompileError(Problem(_BACKEND, what))
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.version_compatibility:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if isinstance(options.timing_cache, PathText):
        _use_times(config, options.timing_cache.absolute)


def _use_times(config: stubs.IBuilderConfig, path: Path) -> None:
    """Start from the times in `path`; those of another GPU or version are left aside, and that is said."""
    from tlcompile import progress

    times = path.read_bytes() if path.exists() else b""
    if config.set_timing_cache(config.create_timing_cache(times), ignore_mismatch=False):
        return
    progress.say(f"  {_BACKEND}: the timing cache {path} is of another GPU or version; a new one replaces it")
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_times(config: stubs.IBuilderConfig, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(config.get_timing_cache().serialize())
    temporary.replace(path)


def _layers(trt: _nvidia.TensorRT, network: _nvidia.Network, plan: Path) -> list[Any]:
    """What the engine inspector says of each layer."""
    runtime = trt.Runtime(network.logger)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    layers: list[Any] = json.loads(text)["Layers"]
    return layers


def open(folder: Path, options: Options) -> Runner:
    import tensorrt as trt

    from tlcompile.compile._nvidia_runner import PlanRunner

    return PlanRunner(trt, _BACKEND, folder / _PLAN)
