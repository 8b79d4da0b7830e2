"""TensorRT-RTX: engines for NVIDIA RTX GPUs, built ahead of time on a machine that has none.

One engine file for each compute capability; the device takes its own. The library finishes the compilation on the GPU
at the first run. Builds are not reproducible to the bit. It knows Turing (sm75, fp16 products only), Ampere (sm80,
sm86), Ada (sm89) and Blackwell (sm120, sm121); data-centre GPUs such as Hopper (sm90) are not among them: those take
`tensorrt`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from tlcompile.artifacts import Graph, Runner, write_json
from tlcompile.compile import _cuda, _nvidia
from tlcompile.errors import BackendMissing, BundleError, Problem, TlcompileError, nearest, one_of
from tlcompile.options import Field, NameList

if TYPE_CHECKING:
    import tensorrt as stubs

PACKAGES = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
_BACKEND = "tensorrt_rtx"


class Options(_nvidia.ProfileOptions):
    compute_capability: NameList = Field(
        ("sm86", "sm89", "sm120"),
        min_length=1,
        description="GPUs to build for: RTX 20 is sm75, A100 sm80, RTX 30 sm86, RTX 40 sm89, RTX 50 sm120, "
        "DGX Spark sm121; or current, the GPU of this machine",
    )

    @field_validator("compute_capability")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [*CAPABILITIES, "current"]
        wrong = [f"'{n}'; did you mean '{_nearest(n)}'?" for n in names if n not in known]
        if wrong:
            raise ValueError(f"TensorRT-RTX can't build for {', '.join(wrong)} (known: {one_of(known)})")
        if len(set(names)) < len(names):
            raise ValueError(f"a compute capability is named twice in {list(names)}")
        return names


def _nearest(name: str) -> str:
    """The capability next below in number (sm90 -> sm89), else the one that is spelt alike."""
    number = name.lower().removeprefix("sm").replace(".", "").replace("_", "")
    if number.isdigit():
        return max((c for c in CAPABILITIES if int(c[2:]) <= int(number)), key=lambda c: int(c[2:]), default="sm75")
    return nearest(name, [*CAPABILITIES, "current"]) or "current"


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


def _file(folder: Path, capability: str) -> Path:
    return folder / f"engine-{capability}.trt"


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """`engine-<capability>.trt` and `layers-<capability>.json` for each capability."""
    import tensorrt_rtx as trt

    if "current" in options.compute_capability and (reason := _cuda.why_no_gpu()):
        others = f"name the capabilities to build for instead, e.g. {one_of(CAPABILITIES)}"
        raise BackendMissing(Problem(_BACKEND, f"compute_capability 'current': {reason}; {others}"))
    if lacking := [c for c in options.compute_capability if not hasattr(trt.ComputeCapability, c.upper())]:
        known = [c.name.lower() for c in trt.ComputeCapability.__members__.values() if c.name != "NONE"]
        what = f"TensorRT-RTX {trt.__version__} does not know {one_of(lacking)}, only {one_of(known)}"
        raise TlcompileError(Problem(_BACKEND, what))
    network = _nvidia.Network(trt, _BACKEND, graph.model)
    if "sm75" in options.compute_capability and (products := _fp32_products(trt, network.definition)):
        what = f"sm75 has no fp32 matrix products and {one_of(products[:3])} is one: use an fp16 graph, or drop sm75"
        raise TlcompileError(Problem(_BACKEND, what))
    shapes = _nvidia.shapes(options, graph.signature)
    facts = {}
    for asked in options.compute_capability:
        capability = _cuda.gpu().capability if asked == "current" else asked
        facts[capability] = _build_one(trt, network, capability, shapes, options, folder)
    return {"engines": facts}


def _build_one(
    trt: Any, network: _nvidia.Network, capability: str, shapes: _nvidia.Shapes, options: Options, folder: Path
) -> dict[str, Any]:
    def configure(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), 0)

    plan = network.build(capability, shapes, options.tf32, configure)
    path = _file(folder, capability)
    path.write_bytes(plan)
    layers = _nvidia.layers_of_log(network.log)
    write_json(folder / f"layers-{capability}.json", layers)
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


def open(folder: Path, options: Options) -> Runner:
    import tensorrt_rtx as trt

    from tlcompile.compile._nvidia_runner import PlanRunner

    capability = _cuda.gpu().capability
    path = _file(folder, capability)
    if not path.exists():
        built = sorted(p.stem.removeprefix("engine-") for p in folder.glob("engine-*.trt"))
        raise BundleError(Problem(str(folder), f"no engine for this GPU ({capability}), only for {one_of(built)}"))
    return PlanRunner(trt, _BACKEND, path)
