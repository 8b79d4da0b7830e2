"""ONNX Runtime: the graph itself is the engine; it is optimized while it is loaded.

A graph that ONNX Runtime saved after optimizing loads faster, and is tied to one CPU and one version: where `optimized`
asks for it, it lies beside the graph and is left aside on another machine.
Nodes that no chosen provider takes run on the CPU. That is never silent: a provider that the installed build lacks, or
that fails to start, is an error; `engine.json` counts the nodes of each provider, and the engine says so when opened.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from tlcompile.artifacts import Graph, read_json, write_json
from tlcompile.compile import _cpu, _cuda, _providers
from tlcompile.compile._options import EngineOptions
from tlcompile.errors import BackendMissing, Problem, one_of
from tlcompile.options import Field, NameList

if TYPE_CHECKING:
    from typing import Self

    import onnxruntime as ort

    from tlcompile.artifacts import Feed

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
BRANCHES = True
_CPU = _providers.CPU
_OPTIMIZED, _MADE_BY = "optimized.onnx", "optimized.json"
_REQUANTIZES = "WeightBiasQuantization"
"""An optimizer that gives weights left in fp32 between Q/DQ one int8 scale a tensor: what a search kept is lost."""


class Options(EngineOptions):
    providers: NameList = Field(
        (_CPU,),
        min_length=1,
        description="who runs the nodes, best first; short names: cpu, cuda, tensorrt, nv_tensorrt_rtx, openvino, "
        "directml, coreml, qnn, xnnpack",
    )
    cpu_nodes: Literal["report", "refuse"] = Field(
        "report", description="nodes that no other chosen provider takes: run them on the CPU and say so, or refuse"
    )
    threads: int = Field(0, ge=0, description="CPU threads of one run; 0 = one a physical core")
    arena: bool = Field(True, description="keep freed memory for the next run; false: slower, and less memory is held")
    io_binding: bool = Field(False, description="bind inputs and outputs before a run; measured slower on a CPU")
    optimization: Literal["all", "extended", "basic"] = Field("all", description="graph optimization while loading")
    optimized: bool = Field(
        False, description="also keep the graph as it is after optimizing: loads faster on the same CPU and version"
    )
    integer_kernels: bool = Field(
        True, description="false: compute Q/DQ nodes as they are written, in fp32; slow, and free of saturation"
    )
    isa: _cpu.Isa = Field("auto", description="instruction set of the CPU that will run it; auto = this machine's")

    _full = field_validator("providers")(_providers.full_names)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.optimized and self.providers != (_CPU,):
            raise ValueError("optimized = true: only what runs on the CPU alone can be kept; providers must be ['cpu']")
        if self.cpu_nodes == "refuse" and _CPU in self.providers:
            raise ValueError("cpu_nodes = 'refuse' and the provider cpu contradict each other; leave one out")
        return self


def dialect(options: Options) -> str:
    return _providers.provider(options.providers[0]).dialect or _cpu.dialect(options.isa)


def missing() -> str:
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return "onnxruntime is not installed: pip install onnxruntime (onnxruntime-gpu for NVIDIA)"
    return ""


def _why_not(options: Options) -> str:
    """Why a session with these providers can't be opened here; ''."""
    if lacking := _providers.unavailable(options.providers):
        return "; ".join(problem.what for problem in lacking)
    return _cuda.why_no_gpu() if _providers.provider(options.providers[0]).nvidia else ""


def runs_here(options: Options) -> str:
    return _why_not(options) or (_cpu.why_not(options.isa) if options.providers[0] == _CPU else "")


def device(options: Options) -> dict[str, str]:
    gpu = _cuda.facts() if _providers.provider(options.providers[0]).nvidia else {}
    return {**_cpu.device(), **gpu}


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """Keep the graph as `model.onnx`. Where its providers are here, load it once and count the nodes of each."""
    import shutil

    model = folder / "model.onnx"
    shutil.copyfile(graph.model, model)
    if _why_not(options):
        return {}
    if not options.optimized:
        return _assignment(_session(model, options))
    facts = _assignment(_session(model, options, save_as=folder / _OPTIMIZED))
    write_json(folder / _MADE_BY, _maker())
    return facts


def _maker() -> dict[str, str]:
    """What the optimized graph depends on."""
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__, **_cpu.device()}


def _assignment(session: ort.InferenceSession) -> dict[str, Any]:
    """`nodes`: how many each provider runs. `cpu_nodes`: those that the CPU runs for another one, by operator."""
    groups = [(group.ep_name, group.get_nodes()) for group in session.get_provider_graph_assignment_info()]
    nodes: Counter[str] = Counter()
    on_cpu: Counter[str] = Counter()
    for name, members in groups:
        nodes[name] += len(members)
        if name == _CPU and session.get_providers()[0] != _CPU:
            on_cpu.update(node.op_type for node in members)
    facts: dict[str, Any] = {"nodes": dict(nodes.most_common())}
    return {**facts, "cpu_nodes": dict(on_cpu.most_common())} if on_cpu else facts


def _session(model: Path, options: Options, save_as: Path | None = None, optimize: bool = True) -> ort.InferenceSession:
    import onnxruntime as ort

    if lacking := _providers.unavailable(options.providers):
        raise BackendMissing(*lacking)
    if _providers.provider(options.providers[0]).nvidia:
        ort.preload_dlls()  # CUDA's libraries as pip installs them
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or _cpu.cores()
    level = f"ENABLE_{options.optimization.upper()}" if optimize else "DISABLE_ALL"
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    settings.log_severity_level = 3
    settings.enable_cpu_mem_arena = options.arena
    if save_as is not None:
        settings.optimized_model_filepath = str(save_as)
    if not options.integer_kernels:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    if options.cpu_nodes == "refuse":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    _providers.add_to(settings, options.providers)
    session = ort.InferenceSession(str(model), settings, disabled_optimizers={_REQUANTIZES})
    session.disable_fallback()
    if failed := [name for name in options.providers if name not in session.get_providers()]:
        raise BackendMissing(Problem("onnxruntime", f"{one_of(failed)} is installed but did not start here"))
    return session


class _Runner:
    """ONNX Runtime sessions may run in several threads at once. `notes`: what is not as it was asked for or built."""

    def __init__(self, session: ort.InferenceSession, bind: bool, notes: tuple[str, ...]) -> None:
        self.session = session
        self.bind = bind
        self.names = [output.name for output in session.get_outputs()]
        self.notes = (*notes, *_cpu_note(session))

    def run(self, feed: Feed) -> Feed:
        run = self._bound if self.bind else self.session.run
        return dict(zip(self.names, run(self.names, feed), strict=True))

    def _bound(self, names: list[str], feed: Feed) -> list[Any]:
        binding = self.session.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for name in names:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        outputs: list[Any] = binding.copy_outputs_to_cpu()
        return outputs

    def close(self) -> None:
        del self.session


def _cpu_note(session: ort.InferenceSession) -> list[str]:
    facts = _assignment(session)
    if not (on_cpu := facts.get("cpu_nodes")):
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in on_cpu.items())
    return [f"onnxruntime: {sum(on_cpu.values())} of {sum(facts['nodes'].values())} nodes run on the CPU: {kinds}"]


def open(folder: Path, options: Options) -> _Runner:
    session, notes = _opened(folder, options)
    return _Runner(session, options.io_binding, notes)


def _opened(folder: Path, options: Options) -> tuple[ort.InferenceSession, tuple[str, ...]]:
    """The optimized graph where it is kept and of this machine, else the graph itself."""
    model = folder / "model.onnx"
    if not options.optimized:
        return _session(model, options), ()
    made_by, here = read_json(folder / _MADE_BY), _maker()
    differs = [
        f"{key} was '{made_by.get(key, '')}', here '{here[key]}'" for key in here if made_by.get(key) != here[key]
    ]
    if not differs:
        return _session(folder / _OPTIMIZED, options, optimize=False), ()
    note = f"onnxruntime: the optimized graph is of another machine ({'; '.join(differs)}); the graph itself is loaded"
    return _session(model, options), (note,)
