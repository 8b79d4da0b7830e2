"""TensorRT-RTX: engines for NVIDIA RTX GPUs, built ahead of time on a machine that has none.

One engine file for each compute capability, or one for all of them; the device takes its own. The library finishes the
compilation on the GPU at the first run, and can keep its work in a file. Builds are not reproducible to the bit. It
knows Turing (sm75: fp16 products only, no int8), Ampere (sm80, sm86), Ada (sm89) and Blackwell (sm120, sm121);
data-centre GPUs such as Hopper (sm90) are not among them: those take `tensorrt`. Engines without weights need a GPU to
be built on, so there are none.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from tlcompile.artifacts import Graph, Runner, write_json
from tlcompile.compile import _cuda, _nvidia
from tlcompile.compile._options import located
from tlcompile.compile._profiles import ProfileOptions, Shapes, shapes
from tlcompile.errors import BackendMissing, BundleError, Problem, TlcompileError, nearest, one_of
from tlcompile.options import Field, NameList, RecipePath

if TYPE_CHECKING:
    import tensorrt as stubs

PACKAGES = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
KEEP_GRAPH = True
HERE = {"compute_capability": ("current",)}
NOT_IN_KEY = ("runtime_cache",)
_BACKEND = "tensorrt_rtx"
_DATA_CENTRE = ("sm90", "sm100", "sm103")


class Options(ProfileOptions):
    compute_capability: NameList = Field(
        ("sm86", "sm89", "sm120"),
        min_length=1,
        description="GPUs to build for: RTX 20 is sm75, A100 sm80, RTX 30 sm86, RTX 40 sm89, RTX 50 sm120, "
        "DGX Spark sm121; or current, the GPU of this machine",
    )
    one_engine: bool = Field(False, description="one file for all capabilities in place of one for each")
    runtime_cache: RecipePath | None = Field(
        None, description="file of the device for kernels compiled at the first run: the second start is quicker"
    )

    @field_validator("compute_capability")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [*CAPABILITIES, "current"]
        wrong = [f"'{n}'; did you mean '{_nearest(n)}'?" for n in names if n not in known]
        if wrong:
            hint = "; data-centre GPUs take the backend tensorrt" if _data_centre(names) else ""
            raise ValueError(f"TensorRT-RTX can't build for {', '.join(wrong)} (known: {one_of(known)}{hint})")
        if len(set(names)) < len(names):
            raise ValueError(f"a compute capability is named twice in {list(names)}")
        return names


def _number(name: str) -> str:
    return name.lower().removeprefix("sm").replace(".", "").replace("_", "")


def _nearest(name: str) -> str:
    """The capability next below in number (sm90 -> sm89), else the one that is spelt alike."""
    number = _number(name)
    if number.isdigit():
        return max((c for c in CAPABILITIES if int(c[2:]) <= int(number)), key=lambda c: int(c[2:]), default="sm75")
    return nearest(name, [*CAPABILITIES, "current"]) or "current"


def _data_centre(names: tuple[str, ...]) -> bool:
    return any(f"sm{_number(name)}" in _DATA_CENTRE for name in names)


def dialect(options: Options) -> str:
    return "tensorrt"


def missing() -> str:
    spec = importlib.util.find_spec("tensorrt_rtx")
    return "TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13" if spec is None or spec.origin is None else ""


def runs_here(options: Options) -> str:
    if reason := _cuda.why_no_gpu():
        return reason
    capability = _cuda.gpu().capability
    if capability in options.compute_capability or "current" in options.compute_capability:
        return ""
    return f"engines are for {one_of(options.compute_capability)}, this GPU is '{capability}'"


def device(options: Options) -> dict[str, str]:
    """The GPU where one is named by `current`; else the plan is the same on every machine."""
    return _cuda.facts() if "current" in options.compute_capability else {}


def _files(folder: Path) -> dict[str, Path]:
    """Compute capability -> the engine that serves it."""
    plans = sorted(folder.glob("engine-*.trt"))
    return {capability: plan for plan in plans for capability in plan.stem.split("-")[1:]}


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """`engine-<capabilities>.trt` and `layers-<capabilities>.json`, for each capability or for all together."""
    import tensorrt_rtx as trt

    if "current" in options.compute_capability and (reason := _cuda.why_no_gpu()):
        others = f"name the capabilities to build for instead, e.g. {one_of(CAPABILITIES)}"
        raise BackendMissing(Problem(_BACKEND, f"compute_capability 'current': {reason}; {others}"))
    if lacking := [c for c in options.compute_capability if not hasattr(trt.ComputeCapability, c.upper())]:
        known = [c.name.lower() for c in trt.ComputeCapability.__members__.values() if c.name != "NONE"]
        what = f"TensorRT-RTX {trt.__version__} does not know {one_of(lacking)}, only {one_of(known)}"
        raise TlcompileError(Problem(_BACKEND, what))
    network = _nvidia.Network(trt, _BACKEND, graph.model)
    if "sm75" in options.compute_capability:
        _check_turing(trt, network)
    profiles = shapes(options, graph.signature)
    wanted = [_cuda.gpu().capability if asked == "current" else asked for asked in options.compute_capability]
    groups = [wanted] if options.one_engine else [[capability] for capability in wanted]
    facts = {"-".join(group): _build_one(trt, network, group, profiles, options, folder) for group in groups}
    return {"engines": facts, "reproducible": False}


def _check_turing(trt: Any, network: _nvidia.Network) -> None:
    """What sm75 lacks, before the build dumps it."""
    problems = []
    if network.quantized():
        what = "sm75 has no int8: ship the fp32 or fp16 variant there (variants = [...]), or drop sm75"
        problems.append(Problem(_BACKEND, what))
    elif _in_bf16(trt, network.definition):
        what = "sm75 has no bf16: ship the fp16 variant there (variants = [...]), or drop sm75"
        problems.append(Problem(_BACKEND, what))
    elif products := _fp32_products(trt, network.definition):
        what = f"sm75 has no fp32 matrix products and {one_of(products[:3])} is one: use an fp16 graph, or drop sm75"
        problems.append(Problem(_BACKEND, what))
    if problems:
        raise TlcompileError(*problems)


def _build_one(
    trt: Any, network: _nvidia.Network, capabilities: list[str], profiles: list[Shapes], options: Options, folder: Path
) -> dict[str, Any]:
    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), index)
        if options.sparse_weights:
            config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)

    name = "-".join(capabilities)
    plan = network.build(name, profiles, options.tf32, configure)
    path = folder / f"engine-{name}.trt"
    path.write_bytes(plan)
    layers = _nvidia.layers_of_log(network.log)
    write_json(folder / f"layers-{name}.json", layers)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "layers": len(layers),
        "int8_layers": sum("Int8" in layer["inputs"] for layer in layers),
    }


def _fp32_products(trt: Any, definition: stubs.INetworkDefinition) -> list[str]:
    """Names of matrix products of fp32 tensors; dequantized ones too, for sm75 was seen not to fuse those."""
    layers = (definition.get_layer(i) for i in range(definition.num_layers))
    return [
        layer.name
        for layer in layers
        if layer.type == trt.LayerType.MATRIX_MULTIPLY and layer.get_input(0).dtype == trt.float32
    ]


def _in_bf16(trt: Any, definition: stubs.INetworkDefinition) -> bool:
    """Whether a layer makes bf16."""
    return any(definition.get_layer(i).get_output(0).dtype == trt.bfloat16 for i in range(definition.num_layers))


def open(folder: Path, options: Options) -> Runner:
    import tensorrt_rtx as trt

    from tlcompile.compile._nvidia_runner import PlanRunner, Setup

    capability = _cuda.gpu().capability
    plans = _files(folder)
    if capability not in plans:
        raise BundleError(Problem(str(folder), f"no engine for this GPU ({capability}), only for {one_of(plans)}"))
    kernels = None if options.runtime_cache is None else located(options.runtime_cache)
    return PlanRunner(trt, _BACKEND, plans[capability], Setup(options.cuda_graphs, kernels=kernels))
