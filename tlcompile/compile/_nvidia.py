"""What `tensorrt` and `tensorrt_rtx` share: ONNX -> strongly typed network -> plan, with ranges of shapes.

Precision lives in the graph: its Q/DQ and its fp16 tensors. There are no builder precision flags and no calibrators;
TensorRT 11 removed them and TensorRT-RTX never had them.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tlcompile.compile._told import told_by_tensorrt
from tlcompile.errors import Problem, TlcompileError

if TYPE_CHECKING:
    import tensorrt as stubs

    from tlcompile.compile._profiles import Shapes
    from tlcompile.progress import Bar

    class TensorRT(Protocol):
        """The names that we use of either library; a module fits this protocol."""

        Builder: type[stubs.Builder]
        BuilderFlag: type[stubs.BuilderFlag]
        Dims: type[stubs.Dims]
        HardwareCompatibilityLevel: type[stubs.HardwareCompatibilityLevel]
        ILogger: type[stubs.ILogger]
        IProgressMonitor: type[stubs.IProgressMonitor]
        LayerInformationFormat: type[stubs.LayerInformationFormat]
        LayerType: type[stubs.LayerType]
        MemoryPoolType: type[stubs.MemoryPoolType]
        NetworkDefinitionCreationFlag: type[stubs.NetworkDefinitionCreationFlag]
        OnnxParser: type[stubs.OnnxParser]
        OnnxParserRefitter: type[stubs.OnnxParserRefitter]
        ProfilingVerbosity: type[stubs.ProfilingVerbosity]
        Refitter: type[stubs.Refitter]
        Runtime: type[stubs.Runtime]
        TensorIOMode: type[stubs.TensorIOMode]
        TimingCacheKey: type[stubs.TimingCacheKey]
        TimingCacheValue: type[stubs.TimingCacheValue]

        nptype: Callable[[stubs.DataType], Any]


class Log:
    """What a library said: its errors, and its description of the layers that it chose."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layers = ""

    def problem(self, backend: str, what: str) -> Problem:
        return Problem(backend, f"{what}: {told_by_tensorrt(self.errors[0])}" if self.errors else what)


def logger(trt: TensorRT, log: Log) -> stubs.ILogger:
    """A logger of the library that keeps what matters in `log` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                log.errors.append(message)
            elif message.startswith("Layers:"):
                log.layers = message

    return Logger()


class _Watch:
    """Shows the phases of a build as a bar; Ctrl-C ends the build at its next step."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.stopped: KeyboardInterrupt | None = None

    def monitor(self, trt: TensorRT) -> stubs.IProgressMonitor:
        watch = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                pass

            def step_complete(self, phase_name: str, step: int) -> bool:
                try:
                    watch.bar.step(1, phase_name)
                except KeyboardInterrupt as stop:  # must not reach the library, which would only print it
                    watch.stopped = stop
                return watch.stopped is None

            def phase_finish(self, phase_name: str) -> None:
                pass

        return Monitor()


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside the library's callbacks: it may free the builder of an earlier, failed build, which
    then waits for ever for a lock that this thread holds.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Network:
    """An ONNX graph in the library's own form, from which plans are built."""

    def __init__(self, trt: TensorRT, backend: str, model: Path) -> None:
        self.trt, self.backend = trt, backend
        self.log = Log()
        self.logger = logger(trt, self.log)
        with _uncollected():
            self.builder = trt.Builder(self.logger)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind since TensorRT 11
        self.definition = self.builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(self.definition, self.logger)
        with _uncollected():
            parsed = parser.parse_from_file(str(model))
        if not parsed:
            raise TlcompileError(*(self._refusal(parser.get_error(i)) for i in range(parser.num_errors)))

    def _refusal(self, error: stubs.ParserError) -> Problem:
        where = f"node '{error.node_name()}' ({error.node_operator()})" if error.node_operator() else "the graph"
        return Problem(self.backend, f"{where} can't be compiled: {told_by_tensorrt(error.desc())}")

    def build(
        self, label: str, profiles: list[Shapes], tf32: bool, configure: Callable[[stubs.IBuilderConfig], None]
    ) -> stubs.IHostMemory:
        """One plan that accepts what `profiles` do. `configure` sets what is peculiar to the library."""
        from tlcompile import progress

        config = self.builder.create_builder_config()
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        (config.set_flag if tf32 else config.clear_flag)(self.trt.BuilderFlag.TF32)
        for shapes in profiles:
            profile = self.builder.create_optimization_profile()
            for name, (low, best, high) in shapes.items():
                profile.set_shape(name, *(self.trt.Dims(list(sizes)) for sizes in (low, best, high)))
            config.add_optimization_profile(profile)
        configure(config)
        self.log.errors.clear()
        with progress.bar(f"{self.backend} {label}") as bar:
            watch = _Watch(bar)
            config.progress_monitor = watch.monitor(self.trt)
            with _uncollected():
                plan = self.builder.build_serialized_network(self.definition, config)
        if watch.stopped:
            raise watch.stopped
        if plan is None:
            raise TlcompileError(self.log.problem(self.backend, f"{label}: the build failed"))
        return plan

    def quantized(self) -> bool:
        """Whether the graph has Q/DQ nodes."""
        layers = (self.definition.get_layer(i) for i in range(self.definition.num_layers))
        return any(layer.type == self.trt.LayerType.QUANTIZE for layer in layers)


def layers_of_log(log: Log) -> list[dict[str, Any]]:
    """Name, kind, tactic and input types of each layer, out of the builder's own description.

    The engine inspector needs a GPU; ahead of time this description is the only one.
    """
    found = []
    for line in log.layers.split("\n"):
        if match := re.match(r"Name: (.*?), LayerType: (\w+), Inputs: (.*?)\], Constants: .*?TacticName: (\S*),", line):
            name, kind, inputs, tactic = match.groups()
            types = re.findall(r"Datatype: (\w+)", inputs)
            found.append({"name": name, "kind": kind, "tactic": tactic, "inputs": types})
    return found


def layers_of_inspector(text: str) -> list[dict[str, Any]]:
    """The same out of the JSON of the engine inspector of TensorRT 10 or 11."""
    return [
        {
            "name": layer["Name"],
            "kind": layer.get("LayerType", ""),
            "tactic": layer.get("TacticName") or layer.get("TacticValue", ""),
            "inputs": [_type_of(tensor) for tensor in layer.get("Inputs", ())],
        }
        for layer in json.loads(text)["Layers"]
    ]


def _type_of(tensor: dict[str, Any]) -> str:
    """`Int8`: TensorRT 11 says so; 10 says `Thirty-two wide channel vectorized row major Int8 format.`, or `Half`."""
    layout = str(tensor.get("DataType") or tensor.get("Format/Datatype", ""))
    found = re.search(r"\b(U?Int\d+|B?FP?\d+|Float|Half|Bool)\b", layout)
    return found.group() if found else layout
