"""Runs a TensorRT plan: one execution context, stream and set of device buffers for each run that is under way."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.compile import _cuda
from tlcompile.compile._nvidia import Log, logger
from tlcompile.errors import BundleError, Problem, TlcompileError

if TYPE_CHECKING:
    from pathlib import Path

    import tensorrt as stubs

    from tlcompile.artifacts import Feed
    from tlcompile.compile._driver import Gpu
    from tlcompile.compile._nvidia import TensorRT


def _sizes(dims: stubs.Dims) -> list[int]:
    return [dims[i] for i in range(len(dims))]


class _Slot:
    """What one run needs for itself. Buffers grow to the largest feed seen."""

    def __init__(self, engine: stubs.ICudaEngine, gpu: Gpu) -> None:
        self.context = engine.create_execution_context()
        self.gpu = gpu
        self.stream = gpu.stream()
        self.buffers: dict[str, tuple[int, int]] = {}  # tensor -> (address, bytes)

    def buffer(self, name: str, size: int) -> int:
        address, have = self.buffers.get(name, (0, 0))
        if have < size:
            if address:
                self.gpu.free(address)
                del self.buffers[name]
            address = self.gpu.allocate(size)
            self.buffers[name] = (address, size)
        self.context.set_tensor_address(name, address)
        return address

    def close(self) -> None:
        for address, _ in self.buffers.values():
            self.gpu.free(address)
        self.gpu.destroy(self.stream)


class PlanRunner:
    """`run` may be called from several threads; each takes an idle slot or makes one."""

    def __init__(self, trt: TensorRT, backend: str, plan: Path) -> None:
        self.trt, self.backend = trt, backend
        self.log = Log()
        self.gpu = _cuda.gpu()
        self.gpu.use()
        self._logger = logger(trt, self.log)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise BundleError(self.log.problem(str(plan), "this engine can't be loaded on this GPU"))
        self.engine = engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = {n: np.dtype(trt.nptype(engine.get_tensor_dtype(n))) for n in names if n not in self.inputs}
        self.idle: SimpleQueue[_Slot] = SimpleQueue()

    def run(self, feed: Feed) -> Feed:
        self._check(feed)
        self.gpu.use()
        try:
            slot = self.idle.get_nowait()
        except Empty:
            slot = _Slot(self.engine, self.gpu)
        try:
            return self._run(slot, feed)
        finally:
            self.idle.put(slot)

    def _check(self, feed: Feed) -> None:
        """Sizes against the range that the engine was built for."""
        problems = []
        for name in self.inputs:
            low, _, high = (_sizes(dims) for dims in self.engine.get_tensor_profile_shape(name, 0))
            shape = feed[name].shape
            if any(not a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                what = f"found shape {list(shape)}, this engine was built for {low} to {high}"
                problems.append(Problem(f"feed '{name}'", what))
        if problems:
            raise TlcompileError(*problems)

    def _run(self, slot: _Slot, feed: Feed) -> Feed:
        for name in self.inputs:
            slot.context.set_input_shape(name, self.trt.Dims(list(feed[name].shape)))
            slot.gpu.copy_in(slot.buffer(name, feed[name].nbytes), feed[name], slot.stream)
        outputs: Feed = {}
        addresses = {}
        for name, dtype in self.outputs.items():
            outputs[name] = np.empty(_sizes(slot.context.get_tensor_shape(name)), dtype)
            addresses[name] = slot.buffer(name, outputs[name].nbytes)
        self.log.errors.clear()
        if not slot.context.execute_async_v3(slot.stream):
            raise TlcompileError(self.log.problem(self.backend, "the run failed"))
        for name, array in outputs.items():
            slot.gpu.copy_out(array, addresses[name], slot.stream)
        slot.gpu.wait(slot.stream)
        return outputs

    def close(self) -> None:
        self.gpu.use()
        while True:
            try:
                self.idle.get_nowait().close()
            except Empty:
                break
        del self.engine, self._runtime
