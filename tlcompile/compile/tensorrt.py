"""TensorRT 10 and 11: an engine for the NVIDIA GPU that builds it, from a strongly typed network.

Timing kernels is most of a build, so their times lie in `timing.cache` beside the engine, and in a file of the recipe's
choice. Builds are not reproducible to the bit: which kernel wins depends on measured times; `engine.json` says so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from tlcompile.artifacts import Graph, Runner, write_json
from tlcompile.compile import _cuda, _nvidia, _timing
from tlcompile.compile._options import GRAPH, keep_graph
from tlcompile.compile._profiles import ProfileOptions, shapes
from tlcompile.errors import BackendMissing, BundleError, Problem, TlcompileError
from tlcompile.options import Field, PathText, RecipePath

if TYPE_CHECKING:
    from typing import Self

    import tensorrt as stubs

PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
KEEP_GRAPH = True
OPSETS = (9, 20)  # of TensorRT 10.0, which Jetsons have; 11 reads up to 25
CARRIED = {"timing_cache": "timing.cache"}
_BACKEND, _PLAN, _TIMES = "tensorrt", "engine.trt", CARRIED["timing_cache"]
_COMPATIBILITY = Literal["none", "ampere_plus", "same_compute_capability"]

NOT_IN_KEY = ("timing_cache",)  # it grows with every build


class Options(ProfileOptions):
    builder_optimization_level: int = Field(3, ge=0, le=5, description="5 searches longest for the fastest kernels")
    workspace_mib: int | None = Field(None, ge=1, description="GPU memory for kernels; all of it where not given")
    hardware_compatibility: _COMPATIBILITY = Field("none", description="other GPUs that the engine shall run on")
    version_compatibility: bool = Field(False, description="let later TensorRT versions run the engine")
    weights: Literal["kept", "stripped"] = Field(
        "kept", description="stripped: a small engine, which takes its weights from the graph beside it when it starts"
    )
    timing_cache: RecipePath | None = Field(None, description="file of kernel times: read where it fits, then extended")
    editable_timing: bool = Field(False, description="also write the kernel times as timing.json, to be edited")
    timing_edits: RecipePath | None = Field(
        None, description="an edited timing.json: its kernels are taken; needs editable_timing"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.timing_edits is not None and not self.editable_timing:
            raise ValueError("timing_edits needs editable_timing = true")
        return self


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
    """`engine.trt`, `timing.cache`, what the inspector says as `inspector.json`, and `layers.json` out of it."""
    import tensorrt as trt

    if reason := _cuda.why_no_gpu():
        later = "with finalize = true the bundle takes the graph along, and its device builds"
        raise BackendMissing(Problem(_BACKEND, f"an engine is built on the GPU that runs it: {reason}; {later}"))
    _cuda.gpu().use()
    network = _nvidia.Network(trt, _BACKEND, graph.model)
    kept: list[stubs.IBuilderConfig] = []

    def configure(config: stubs.IBuilderConfig) -> None:
        _configure(trt, config, options)
        kept.append(config)

    plan = network.build(_cuda.gpu().capability, shapes(options, graph.signature), options.tf32, configure)
    (folder / _PLAN).write_bytes(plan)
    _timing.keep(kept[0], [folder / _TIMES, *filter(None, [_path(options.timing_cache)])])
    if options.editable_timing:
        _timing.write(kept[0], folder / "timing.json")
    if options.weights == "stripped":
        keep_graph(graph, folder)
    inspected = _inspected(trt, network, folder / _PLAN)
    (folder / "inspector.json").write_text(inspected, encoding="utf-8")
    layers = _nvidia.layers_of_inspector(inspected)
    write_json(folder / "layers.json", layers)
    return {"bytes": (folder / _PLAN).stat().st_size, "layers": len(layers), "reproducible": False}


def _path(text: str | None) -> Path | None:
    return text.absolute if isinstance(text, PathText) else None


def _configure(trt: _nvidia.TensorRT, config: stubs.IBuilderConfig, options: Options) -> None:
    config.builder_optimization_level = options.builder_optimization_level
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    level = options.hardware_compatibility.upper()
    if not hasattr(trt.HardwareCompatibilityLevel, level):
        what = f"this TensorRT has no hardware_compatibility '{options.hardware_compatibility}'"
        raise TlcompileError(Problem(_BACKEND, what))
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    flags = {
        "VERSION_COMPATIBLE": options.version_compatibility,
        "STRIP_PLAN": options.weights == "stripped",
        "REFIT_IDENTICAL": options.weights == "stripped",
        "EDITABLE_TIMING_CACHE": options.editable_timing,
        "SPARSE_WEIGHTS": options.sparse_weights,
    }
    for name in (name for name, wanted in flags.items() if wanted):
        config.set_flag(getattr(trt.BuilderFlag, name))
    _timing.use(config, _BACKEND, _path(options.timing_cache))
    if edits := _path(options.timing_edits):
        _timing.edit(trt, _BACKEND, config.get_timing_cache(), edits)


def _inspected(trt: _nvidia.TensorRT, network: _nvidia.Network, plan: Path) -> str:
    """What the engine inspector says of the engine, as JSON."""
    runtime = trt.Runtime(network.logger)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    told: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return told


def open(folder: Path, options: Options) -> Runner:
    import tensorrt as trt

    from tlcompile.compile._nvidia_runner import PlanRunner, Setup

    weights = folder / GRAPH if options.weights == "stripped" else None
    if weights is not None and not weights.is_file():
        raise BundleError(Problem(str(weights), "missing: this engine's weights are in the graph beside it"))
    return PlanRunner(trt, _BACKEND, folder / _PLAN, Setup(options.cuda_graphs, weights))
