"""What `tensorrt` and `tensorrt_rtx` share: ONNX -> strongly typed network -> plan, with ranges of shapes.

Precision lives in the graph: its Q/DQ and its fp16 tensors. There are no builder precision flags and no calibrators;
TensorRT 11 removed them and TensorRT-RTX never had them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import ConfigDict, Strict, field_validator

from tlcompile.artifacts import Signature, TextSpec
from tlcompile.compile._told import told_by_tensorrt
from tlcompile.errors import Problem, TlcompileError
from tlcompile.options import Field
from tlcompile.options import Options as BaseOptions

if TYPE_CHECKING:
    import tensorrt as stubs

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
        MemoryPoolType: type[stubs.MemoryPoolType]
        NetworkDefinitionCreationFlag: type[stubs.NetworkDefinitionCreationFlag]
        OnnxParser: type[stubs.OnnxParser]
        ProfilingVerbosity: type[stubs.ProfilingVerbosity]
        Runtime: type[stubs.Runtime]
        TensorIOMode: type[stubs.TensorIOMode]

        nptype: Callable[[stubs.DataType], Any]


Range = tuple[int, int, int]
Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]  # input -> minimum, best, maximum
_Range = Annotated[Range, Strict(False)]
_MIN_MAX = "[minimum, the one to be fastest at, maximum]"


class ProfileOptions(BaseOptions):
    """The ranges of shapes that an engine accepts. A feed outside of them is refused with a sentence."""

    model_config = ConfigDict(defer_build=True)  # their schemas are made when a recipe names them

    batch: _Range = Field((1, 1, 32), description=f"examples of one call: {_MIN_MAX}")
    image_px: _Range = Field((1, 256, 1024), description=f"height and width of raw images: {_MIN_MAX}")
    tokens: _Range | None = Field(
        None, description=f"tokens of a text: {_MIN_MAX}; [1, at most 64, the model's limit] where not given"
    )
    tf32: bool = Field(False, description="let fp32 products be rounded to TF32 (10 bits of mantissa): faster")

    @field_validator("batch", "image_px", "tokens")
    @classmethod
    def _ordered(cls, value: Range | None) -> Range | None:
        if value is not None and not 1 <= value[0] <= value[1] <= value[2]:
            raise ValueError(f"expected 1 <= minimum <= best <= maximum, found {list(value)}")
        return value


def shapes(options: ProfileOptions, signature: Signature) -> Shapes:
    """The smallest, best and largest shape of every input of the graph."""
    ranges = {"batch": options.batch, "height": options.image_px, "width": options.image_px}
    if isinstance(signature.spec, TextSpec):
        limit = signature.spec.max_length
        ranges["tokens"] = options.tokens or (1, min(64, limit), limit)
    found: Shapes = {}
    for tensor in signature.inputs:
        if unknown := [size for size in tensor.shape if isinstance(size, str) and size not in ranges]:
            what = f"no range is known for its dimension '{unknown[0]}'"
            raise TlcompileError(Problem(f"input '{tensor.name}'", what))
        low, best, high = (
            tuple(size if isinstance(size, int) else ranges[size][at] for size in tensor.shape) for at in range(3)
        )
        found[tensor.name] = (low, best, high)
    return found


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


class Network:
    """An ONNX graph in the library's own form, from which plans are built."""

    def __init__(self, trt: TensorRT, backend: str, model: Path) -> None:
        self.trt, self.backend = trt, backend
        self.log = Log()
        self.logger = logger(trt, self.log)
        self.builder = trt.Builder(self.logger)
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind since TensorRT 11
        self.definition = self.builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(self.definition, self.logger)
        if not parser.parse_from_file(str(model)):
            raise TlcompileError(*(self._refusal(parser.get_error(i)) for i in range(parser.num_errors)))

    def _refusal(self, error: stubs.ParserError) -> Problem:
        where = f"node '{error.node_name()}' ({error.node_operator()})" if error.node_operator() else "the graph"
        return Problem(self.backend, f"{where} can't be compiled: {told_by_tensorrt(error.desc())}")

    def build(
        self, label: str, shapes: Shapes, tf32: bool, configure: Callable[[stubs.IBuilderConfig], None]
    ) -> stubs.IHostMemory:
        """One plan. `configure` sets what is peculiar to the library."""
        from tlcompile import progress

        config = self.builder.create_builder_config()
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        (config.set_flag if tf32 else config.clear_flag)(self.trt.BuilderFlag.TF32)
        profile = self.builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, *(self.trt.Dims(list(sizes)) for sizes in (low, best, high)))
        config.add_optimization_profile(profile)
        configure(config)
        self.log.errors.clear()
        with progress.bar(f"{self.backend} {label}") as bar:
            watch = _Watch(bar)
            config.progress_monitor = watch.monitor(self.trt)
            plan = self.builder.build_serialized_network(self.definition, config)
        if watch.stopped:
            raise watch.stopped
        if plan is None:
            raise TlcompileError(self.log.problem(self.backend, f"{label}: the build failed"))
        return plan


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
