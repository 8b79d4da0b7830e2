"""What one run of a TensorRT engine needs for itself: context, stream, buffers on device and host, a recording.

Every run copies its feed into pinned memory, so that all that follows (copy in, kernels, copy out) is one sequence on a
stream, at fixed addresses. With `graphs` that sequence is recorded when the same shapes come for the second time in a
row (the first run is TensorRT's own warm-up) and replayed from then on: one launch in place of one for each kernel. A
context must not be changed while a recording of it lives, so other shapes end it.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.errors import TlcompileError

if TYPE_CHECKING:
    from collections.abc import Callable

    import tensorrt as stubs

    from tlcompile.artifacts import Feed
    from tlcompile.compile._driver import Gpu

Shape = tuple[int, ...]


class Buffer:
    """Device memory and pinned host memory of one tensor. Both grow to the largest feed seen."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.size = gpu, 0
        self.device = self.host = 0

    def grow(self, size: int) -> None:
        """At least `size` bytes, maybe at another address."""
        if size > self.size:
            self.close()
            self.device, self.host, self.size = self.gpu.allocate(size), self.gpu.pin(size), size

    def view(self, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """The pinned memory as an array."""
        size = math.prod(shape) * dtype.itemsize
        memory = (ctypes.c_byte * size).from_address(self.host)
        return np.ndarray(shape, dtype, memoryview(memory))

    def close(self) -> None:
        if self.size:
            self.gpu.free(self.device)
            self.gpu.unpin(self.host)
            self.size = 0


def sizes_of(dims: stubs.Dims) -> Shape:
    return tuple(dims[i] for i in range(len(dims)))


class Slot:
    """`run` puts one feed through the engine; for one thread at a time."""

    def __init__(self, context: stubs.IExecutionContext, gpu: Gpu, dims: Callable[[list[int]], stubs.Dims]) -> None:
        self.context, self.gpu, self.dims = context, gpu, dims
        self.stream = gpu.stream()
        self.buffers: dict[str, Buffer] = {}
        self.profile = 0
        self.shapes: dict[str, Shape] = {}  # what context and buffers are set up for; empty: nothing
        self.sizes: dict[str, int] = {}  # bytes of each tensor
        self.runs = 0  # with these shapes
        self.recording = 0

    def run(self, feed: Feed, outputs: dict[str, np.dtype], profile: int, graphs: bool) -> Feed | None:
        """The answers, or None where TensorRT refused."""
        if profile != self.profile or any(self.shapes.get(name) != value.shape for name, value in feed.items()):
            self._set_up(feed, outputs, profile)
        for name, value in feed.items():
            np.copyto(self.buffers[name].view(value.shape, value.dtype), value)
        if not self._launch(list(feed), list(outputs), graphs):
            return None
        self.gpu.wait(self.stream)
        return {name: self.buffers[name].view(self.shapes[name], dtype).copy() for name, dtype in outputs.items()}

    def _set_up(self, feed: Feed, outputs: dict[str, np.dtype], profile: int) -> None:
        """Context and buffers for the shapes of `feed`. Where this fails the next run does it again."""
        self._forget()
        self.shapes = {}
        if profile != self.profile:
            self.context.set_optimization_profile_async(profile, self.stream)
            self.gpu.wait(self.stream)
            self.profile = profile
        for name, value in feed.items():
            self.context.set_input_shape(name, self.dims(list(value.shape)))
        shapes: dict[str, Shape] = {name: tuple(value.shape) for name, value in feed.items()}
        shapes |= {name: sizes_of(self.context.get_tensor_shape(name)) for name in outputs}
        dtypes = {**{name: value.dtype for name, value in feed.items()}, **outputs}
        self.sizes = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
        for name, size in self.sizes.items():
            buffer = self.buffers.setdefault(name, Buffer(self.gpu))
            buffer.grow(max(1, size))
            self.context.set_tensor_address(name, buffer.device)
        self.shapes, self.runs = shapes, 0

    def _launch(self, inputs: list[str], outputs: list[str], graphs: bool) -> bool:
        self.runs += 1
        if graphs and self.runs == 2:
            self.gpu.record(self.stream)
            done = False
            try:
                done = self._enqueue(inputs, outputs)
            finally:
                self.recording = self._end_recording(done)
        if self.recording:
            self.gpu.replay(self.recording, self.stream)
            return True
        return self._enqueue(inputs, outputs)

    def _end_recording(self, whole: bool) -> int:
        """The recording, or 0 where something in the engine can't be recorded: these shapes run as they did."""
        try:
            recording = self.gpu.recorded(self.stream)
        except TlcompileError:
            return 0
        if not whole:
            self.gpu.forget(recording)
        return recording if whole else 0

    def _enqueue(self, inputs: list[str], outputs: list[str]) -> bool:
        for name in inputs:
            self.gpu.copy_in(self.buffers[name].device, self.buffers[name].host, self.sizes[name], self.stream)
        done = self.context.execute_async_v3(self.stream)
        for name in outputs:
            self.gpu.copy_out(self.buffers[name].host, self.buffers[name].device, self.sizes[name], self.stream)
        return bool(done)

    def _forget(self) -> None:
        if self.recording:
            self.gpu.forget(self.recording)
            self.recording = 0

    def close(self) -> None:
        self._forget()
        for buffer in self.buffers.values():
            buffer.close()
        self.gpu.destroy(self.stream)
