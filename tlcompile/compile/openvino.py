"""OpenVINO: the graph as its IR (`model.xml`, `model.bin`), compiled for the device while it is loaded.

On a CPU floating-point layers run in f32 unless the recipe says otherwise: bf16, OpenVINO's own choice on CPUs that
have it, would make the numbers depend on the machine. `engine.json` says what the device settled on.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import threading
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from tlcompile.artifacts import Graph
from tlcompile.compile import _cpu
from tlcompile.compile._options import EngineOptions, located
from tlcompile.errors import BackendMissing, Problem, nearest, one_of
from tlcompile.options import Field, RecipePath

if TYPE_CHECKING:
    from typing import Self

    import openvino

    from tlcompile.artifacts import Feed

PACKAGES = ("openvino",)
BRANCHES = True


_DEVICES = ("CPU", "GPU", "NPU", "AUTO")
_FACTS = (
    "FULL_DEVICE_NAME", "EXECUTION_DEVICES", "PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS",
    "INFERENCE_PRECISION_HINT", "OPTIMAL_NUMBER_OF_INFER_REQUESTS",
)  # fmt: skip

NOT_IN_KEY = ("cache",)


class Options(EngineOptions):
    device: str = Field("CPU", description="who runs it: CPU, GPU, GPU.1 for the second one, NPU; AUTO: the best here")
    hint: Literal["latency", "throughput"] = Field("latency", description="what the device is set up for")
    streams: int = Field(0, ge=0, description="runs that the device works on side by side; 0 = as the hint wants")
    threads: int = Field(0, ge=0, description="CPU threads; 0 = one a physical core")
    precision: Literal["auto", "f32", "bf16", "f16"] = Field(
        "auto", description="arithmetic of the layers that are not quantized; auto: f32 on a CPU, else the device's own"
    )
    weights: Literal["f32", "f16"] = Field(
        "f32", description="how floating-point weights are stored; f16: half the size, products are still in precision"
    )
    cache: RecipePath | None = Field(
        None, description="folder of the device for compiled networks: the second start is quicker; made where needed"
    )
    isa: _cpu.Isa = Field("auto", description="instruction set of the CPU that will run it; auto = this machine's")

    @field_validator("device")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in _DEVICES or re.fullmatch(r"(GPU|NPU)\.\d+", name):
            return name
        near = nearest(name.upper().partition(".")[0], _DEVICES)
        guess = f"; did you mean '{near}'?" if near else ""
        raise ValueError(f"'{name}' is no device: expected {one_of(_DEVICES)}, with a number as in 'GPU.1'{guess}")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.threads and self.device not in ("CPU", "AUTO"):
            raise ValueError(f"threads are those of a CPU, and the device is {self.device}")
        return self


def dialect(options: Options) -> str:
    return _cpu.dialect(options.isa) if options.device in ("CPU", "AUTO") else "x86-vnni"


def missing() -> str:
    spec = importlib.util.find_spec("openvino")
    return "openvino is not installed: pip install openvino" if spec is None or spec.origin is None else ""


def _library() -> ModuleType:
    """OpenVINO, without its telemetry: importing it would report that to Intel, from a thread of its own."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # Python's way to say that a module is not there
    return importlib.import_module("openvino")


def _no_device(options: Options) -> str:
    available = _library().Core().available_devices
    if options.device in ("AUTO", *available) or any(name.split(".")[0] == options.device for name in available):
        return ""
    return f"OpenVINO sees no {options.device} here, only {one_of(available)}"


def runs_here(options: Options) -> str:
    return _cpu.why_not(options.isa) if options.device == "CPU" else _no_device(options)


def device(options: Options) -> dict[str, str]:
    """The CPU, and what OpenVINO calls another device (imports OpenVINO for that only)."""
    if options.device == "CPU" or missing():
        return _cpu.device()
    core = _library().Core()
    seen = [name for name in core.available_devices if options.device in (name.split(".")[0], "AUTO")]
    return {**_cpu.device(), **{name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in seen}}


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """Write the IR. Where the device is here, also say in which precision its layers run."""
    library = _library()
    model = library.Core().read_model(graph.model)
    for index, operation in enumerate(model.get_ordered_ops()):
        if operation.get_friendly_name() == operation.get_name():  # counted by process: two builds would differ
            operation.set_friendly_name(f"{operation.get_type_name()}_{index}")
    library.save_model(model, folder / "model.xml", compress_to_fp16=options.weights == "f16")
    if _no_device(options):
        return {}
    compiled = _compile(folder, options)
    return {"layers": _precisions(compiled), "settled": _settled(compiled)}


def _settled(compiled: openvino.CompiledModel) -> dict[str, str]:
    """What the device made of the hints: streams, threads, precision."""
    known = compiled.get_property("SUPPORTED_PROPERTIES")
    return {name.lower(): _spelt(compiled.get_property(name)) for name in _FACTS if name in known}


def _spelt(value: Any) -> str:
    """A property without the punctuation of its Python class: `PerformanceMode.LATENCY` and `<Type: 'float32'>`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_spelt, value))
    return re.sub(r"^\w+\.|^<Type: '|'>$", "", str(value))


def _precisions(compiled: openvino.CompiledModel) -> dict[str, int]:
    """Layers that compute, by precision: the proof that a quantized graph runs quantized."""
    kinds = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Subgraph", "Eltwise", "Pooling")
    found: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info = operation.get_rt_info()
        if info["layerType"].astype(str) in kinds:
            found[info["runtimePrecision"].astype(str)] += 1
    return dict(found.most_common())


def _compile(folder: Path, options: Options) -> openvino.CompiledModel:
    if reason := _no_device(options):
        raise BackendMissing(Problem("openvino", reason))
    settings: dict[str, Any] = {"PERFORMANCE_HINT": options.hint.upper()}
    if options.device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(options.threads or _cpu.cores())
    if options.streams:
        settings["NUM_STREAMS"] = str(options.streams)
    if options.cache is not None:
        settings["CACHE_DIR"] = str(located(options.cache))
    precision = "f32" if options.precision == "auto" and options.device == "CPU" else options.precision
    if precision != "auto":
        settings["INFERENCE_PRECISION_HINT"] = precision
    return _library().Core().compile_model(folder / "model.xml", options.device, settings)


class _Runner:
    """Each run takes an idle infer request or makes one, so threads never share one.

    Only the main thread runs the network itself, which saves a change of threads (30 to 80 µs). Other threads hand it
    to OpenVINO's: a thread that ran a network and ends while the network is freed crashes in OpenVINO 2026.4, for the
    streams that it keeps for each calling thread are freed by both.
    """

    def __init__(self, compiled: openvino.CompiledModel, names: Collection[str]) -> None:
        """`names` of the outputs; what OpenVINO merges into one tensor has several, its own among them."""
        self.compiled = compiled
        self.names = [next(name for name in names if name in output.names) for output in compiled.outputs]
        self.idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()

    def run(self, feed: Feed) -> Feed:
        try:
            request = self.idle.get_nowait()
        except Empty:
            request = self.compiled.create_infer_request()
        try:
            if threading.current_thread() is threading.main_thread():
                request.infer(feed, share_inputs=True, share_outputs=True)
            else:
                request.start_async(feed, share_inputs=True)
                request.wait()
            return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(self.names)}
        finally:
            self.idle.put(request)

    def close(self) -> None:
        del self.idle, self.compiled


def open(folder: Path, options: Options) -> _Runner:
    names = [output.name for output in Graph(folder, "").signature.outputs]
    return _Runner(_compile(folder, options), names)
