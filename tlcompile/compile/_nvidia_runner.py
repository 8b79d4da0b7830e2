"""Opens and runs a TensorRT plan: each run that is under way has a slot of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile.compile import _cuda
from tlcompile.compile._feed import in_pieces
from tlcompile.compile._nvidia import Log, logger
from tlcompile.compile._profiles import Shapes, nearest_profile, pieces
from tlcompile.compile._slot import Slot, sizes_of
from tlcompile.errors import BundleError, Problem, TlcompileError

if TYPE_CHECKING:
    import tensorrt as stubs

    from tlcompile.artifacts import Feed
    from tlcompile.compile._nvidia import TensorRT


@dataclass(frozen=True)
class Setup:
    """How a plan is opened. `weights`: the graph that a stripped plan gets its weights from. `kernels`: a file where
    TensorRT-RTX keeps what it compiled for this GPU.
    """

    cuda_graphs: bool = False
    weights: Path | None = None
    kernels: Path | None = None


class PlanRunner:
    """`run` may be called from several threads; each takes an idle slot or makes one."""

    def __init__(self, trt: TensorRT, backend: str, plan: Path, setup: Setup) -> None:
        self.trt, self.backend, self.setup = trt, backend, setup
        self.log = Log()
        self.notes: list[str] = []
        self.gpu = _cuda.gpu()
        self.gpu.use()
        self._logger = logger(trt, self.log)
        self._runtime = trt.Runtime(self._logger)
        self.engine = engine = self._load(plan)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = {n: np.dtype(trt.nptype(engine.get_tensor_dtype(n))) for n in names if n not in self.inputs}
        self.profiles = [self._profile(index) for index in range(engine.num_optimization_profiles)]
        self._kernels = self._use_kernels()
        self.idle: SimpleQueue[Slot] = SimpleQueue()

    def _load(self, path: Path) -> stubs.ICudaEngine:
        plan = path.read_bytes()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            what = f"this engine can't be loaded on this GPU{diagnosis(self.trt, self._runtime, plan)}"
            raise BundleError(self.log.problem(str(path), what))
        if self.setup.weights is not None:
            refitter = self.trt.Refitter(engine, self._logger)
            filler = self.trt.OnnxParserRefitter(refitter, self._logger)
            if not (filler.refit_from_file(str(self.setup.weights)) and refitter.refit_cuda_engine()):
                raise BundleError(self.log.problem(str(path), "its weights can't be put back from the graph"))
        return engine

    def _profile(self, index: int) -> Shapes:
        found: Shapes = {}
        for name in self.inputs:
            low, best, high = (sizes_of(dims) for dims in self.engine.get_tensor_profile_shape(name, index))
            found[name] = (low, best, high)
        return found

    def _use_kernels(self) -> Any:
        """TensorRT-RTX's configuration of contexts: recorded launches, kernels of an earlier start. None for TensorRT.

        Only TensorRT-RTX compiles kernels when it starts, and records launches by itself.
        """
        library: Any = self.trt
        if not hasattr(library, "CudaGraphStrategy"):
            return None
        config: Any = self.engine.create_runtime_config()
        if self.setup.cuda_graphs:
            config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        kernels = config.create_runtime_cache()
        path = self.setup.kernels
        if path is not None and path.exists() and not kernels.deserialize(path.read_bytes()):
            self.notes.append(f"{self.backend}: the kernels in {path} are of another GPU, driver or version; made anew")
        config.set_runtime_cache(kernels)
        return config

    def _slot(self) -> Slot:
        try:
            return self.idle.get_nowait()
        except Empty:
            context = self.engine.create_execution_context(*filter(None, [self._kernels]))
        if context is None:
            raise TlcompileError(self.log.problem(self.backend, "no room for another run on this GPU"))
        return Slot(context, self.gpu, self.trt.Dims)

    def run(self, feed: Feed) -> Feed:
        wanted = {name: feed[name] for name in self.inputs}
        counts = pieces(self.profiles, {name: value.shape for name, value in wanted.items()})
        if not counts:
            raise TlcompileError(*self._outside(wanted))
        return in_pieces(self._run, wanted, counts)

    def _run(self, feed: Feed) -> Feed:
        """One call of the engine, with a feed that one of its profiles takes."""
        profile = nearest_profile(self.profiles, {name: value.shape for name, value in feed.items()})
        assert profile is not None
        self.gpu.use()
        slot = self._slot()
        try:
            self.log.errors.clear()
            answers = slot.run(feed, self.outputs, profile, self.setup.cuda_graphs and self._kernels is None)
        finally:
            self.idle.put(slot)
        if answers is None:
            raise TlcompileError(self.log.problem(self.backend, "the run failed"))
        return answers

    def _outside(self, feed: Feed) -> list[Problem]:
        """The feed against the ranges that the engine was built for."""
        ranges = [
            ", ".join(f"{name} {list(low)} to {list(high)}" for name, (low, _, high) in profile.items())
            for profile in self.profiles
        ]
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
        return [Problem("feed", f"found {found}; this engine was built for {' or '.join(ranges)}")]

    def close(self) -> None:
        self.gpu.use()
        while True:
            try:
                self.idle.get_nowait().close()
            except Empty:
                break
        self._keep_kernels()
        del self._kernels, self.engine, self._runtime

    def _keep_kernels(self) -> None:
        """For the next start. A device whose disk is full or read-only starts as slowly as it did."""
        path = self.setup.kernels
        if self._kernels is None or path is None:
            return
        import contextlib
        import os

        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(self._kernels.get_runtime_cache().serialize())
            temporary.replace(path)


def diagnosis(trt: Any, runtime: Any, plan: bytes) -> str:
    """`: malformed engine, unsupported cc`: what the library makes of a plan, where it can tell; else ''."""
    reasons = getattr(trt, "EngineInvalidityDiagnostics", None)
    if reasons is None or not hasattr(runtime, "get_engine_validity"):
        return ""
    _, bits = runtime.get_engine_validity(plan)
    names = [name.lower().replace("_", " ") for name, flag in reasons.__members__.items() if int(flag) & bits]
    return f": {', '.join(names)}" if names else ""
