"""ONNX Runtime: the graph itself is the engine; it is optimized while it is loaded.

A model that ONNX Runtime saved after optimizing is tied to one machine and one version, so it is not kept.
Nodes that no chosen provider takes run on the CPU. That is never silent: a provider that the installed build lacks, or
that fails to start, is an error, and `engine.json` counts the nodes of each provider.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from tlcompile.artifacts import Graph
from tlcompile.compile import _cpu, _cuda
from tlcompile.errors import BackendMissing, Problem, nearest, one_of
from tlcompile.options import Field, NameList
from tlcompile.options import Options as BaseOptions

if TYPE_CHECKING:
    import onnxruntime as ort

    from tlcompile.artifacts import Feed

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")

# short name -> (ONNX Runtime's own name, where it comes from, Q/DQ dialect or '' for the CPU's)
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "pip install onnxruntime", ""),
    "cuda": ("CUDAExecutionProvider", "pip install onnxruntime-gpu", "tensorrt"),
    "tensorrt": ("TensorrtExecutionProvider", "pip install onnxruntime-gpu tensorrt", "tensorrt"),
    "nv_tensorrt_rtx": (
        "NvTensorRTRTXExecutionProvider",
        "it needs a build of ONNX Runtime with --use_nv_tensorrt_rtx",
        "tensorrt",
    ),
    "openvino": ("OpenVINOExecutionProvider", "pip install onnxruntime-openvino", ""),
    "dml": ("DmlExecutionProvider", "pip install onnxruntime-directml (Windows)", "x86-vnni"),
    "coreml": ("CoreMLExecutionProvider", "pip install onnxruntime on macOS", "arm"),
    "qnn": ("QNNExecutionProvider", "pip install onnxruntime-qnn (Windows on ARM)", "arm"),
    "xnnpack": ("XnnpackExecutionProvider", "it needs a build of ONNX Runtime with --use_xnnpack", "arm"),
}
_SHORT = {full: short for short, (full, _, _) in _PROVIDERS.items()}
_NVIDIA = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
_CPU = "CPUExecutionProvider"


class Options(BaseOptions):
    providers: NameList = Field(
        (_CPU,),
        min_length=1,
        description="who runs the nodes, best first; short names: cpu, cuda, tensorrt, openvino, dml, coreml, qnn, "
        "xnnpack, nv_tensorrt_rtx",
    )
    threads: int = Field(0, ge=0, description="CPU threads of one run; 0 = one a physical core")
    optimization: Literal["all", "extended", "basic"] = Field("all", description="graph optimization while loading")
    integer_kernels: bool = Field(
        True, description="false: compute Q/DQ nodes as they are written, in fp32; slow, and free of saturation"
    )
    isa: _cpu.Isa = Field("auto", description="instruction set of the CPU that will run it; auto = this machine's")

    @field_validator("providers")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Full names; unknown and repeated ones are refused, and a CPU that would hide what follows it."""
        wrong = []
        for name in (n for n in names if n not in _PROVIDERS and n not in _SHORT):
            near = nearest(name, [*_PROVIDERS, *_SHORT])
            wrong.append(f"'{name}' is no provider" + (f"; did you mean '{near}'?" if near else ""))
        if wrong:
            raise ValueError(f"{', '.join(wrong)} (known: {one_of(_PROVIDERS)})")
        full = tuple(_PROVIDERS[name][0] if name in _PROVIDERS else name for name in names)
        if len(set(full)) < len(full):
            raise ValueError(f"a provider is named twice in {list(names)}")
        if _CPU in full[:-1]:
            raise ValueError("cpu takes every node, so it must be the last provider")
        return full


def dialect(options: Options) -> str:
    return _PROVIDERS[_SHORT[options.providers[0]]][2] or _cpu.dialect(options.isa)


def missing() -> str:
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return "onnxruntime is not installed: pip install onnxruntime (onnxruntime-gpu for NVIDIA)"
    return ""


def _unavailable(options: Options) -> list[Problem]:
    """Providers that the installed build does not have."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [
        Problem(
            "onnxruntime",
            f"the installed build has no {name}, only {one_of(available)}: {_PROVIDERS[_SHORT[name]][1]}",
        )
        for name in options.providers
        if name not in available
    ]


def runs_here(options: Options) -> str:
    if lacking := _unavailable(options):
        return "; ".join(problem.what for problem in lacking)
    if options.providers[0] in _NVIDIA:
        return _cuda.why_no_gpu()
    return _cpu.why_not(options.isa) if options.providers[0] == _CPU else ""


def device(options: Options) -> dict[str, str]:
    gpu = _cuda.facts() if options.providers[0] in _NVIDIA else {}
    return {**_cpu.device(), **gpu}


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """Keep the graph as `model.onnx`. Where its providers are here, load it once and count the nodes of each."""
    import shutil

    shutil.copyfile(graph.model, folder / "model.onnx")
    if _unavailable(options) or (options.providers[0] in _NVIDIA and _cuda.why_no_gpu()):
        return {}
    session = _session(folder, options, count=True)
    nodes = Counter(group.ep_name for group in session.get_provider_graph_assignment_info() for _ in group.get_nodes())
    return {"nodes": dict(nodes.most_common())}


def _session(folder: Path, options: Options, count: bool = False) -> ort.InferenceSession:
    import onnxruntime as ort

    if lacking := _unavailable(options):
        raise BackendMissing(*lacking)
    if options.providers[0] in _NVIDIA:
        ort.preload_dlls()  # CUDA's libraries as pip installs them
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or _cpu.cores()
    settings.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, f"ORT_ENABLE_{options.optimization.upper()}"
    )
    settings.log_severity_level = 3
    if not options.integer_kernels:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    if count:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(folder / "model.onnx"), settings, providers=list(options.providers))
    session.disable_fallback()
    if failed := [name for name in options.providers if name not in session.get_providers()]:
        raise BackendMissing(Problem("onnxruntime", f"{one_of(failed)} is installed but did not start here"))
    return session


class _Runner:
    """ONNX Runtime sessions may run in several threads at once."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.names = [output.name for output in session.get_outputs()]

    def run(self, feed: Feed) -> Feed:
        return dict(zip(self.names, self.session.run(self.names, feed), strict=True))

    def close(self) -> None:
        del self.session


def open(folder: Path, options: Options) -> _Runner:
    return _Runner(_session(folder, options))
