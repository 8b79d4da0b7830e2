"""The few calls of NVIDIA's driver that a runner needs, through ctypes: no torch, no CUDA package, only the driver.

TensorRT works in the primary context of the GPU and takes a driver stream as it is. A thread that never called CUDA has
no context, so `use` makes it current at the start of every run.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from tlcompile.errors import Problem, TlcompileError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_POINTER, _SIZE, _ADDRESS = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
_OUT_INT, _OUT_POINTER = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_void_p)
_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_OUT_INT,),
    "cuDeviceGet": (_OUT_INT, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_OUT_INT, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_OUT_POINTER, ctypes.c_int),
    "cuCtxSetCurrent": (_POINTER,),
    "cuStreamCreate": (_OUT_POINTER, ctypes.c_uint),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuStreamSynchronize": (_POINTER,),
    "cuMemAlloc_v2": (ctypes.POINTER(_ADDRESS), _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _POINTER, _SIZE, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, _ADDRESS, _SIZE, _POINTER),
    "cuMemHostAlloc": (_OUT_POINTER, _SIZE, ctypes.c_uint),
    "cuMemFreeHost": (_POINTER,),
    "cuStreamBeginCapture_v2": (_POINTER, ctypes.c_int),
    "cuStreamEndCapture": (_POINTER, _OUT_POINTER),
    "cuGraphInstantiateWithFlags": (_OUT_POINTER, _POINTER, ctypes.c_ulonglong),
    "cuGraphLaunch": (_POINTER, _POINTER),
    "cuGraphExecDestroy": (_POINTER,),
    "cuGraphDestroy": (_POINTER,),
}
_CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile


class Gpu:
    """The first visible NVIDIA GPU. `capability` is spelt `sm86`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, types in _CALLS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, ctypes.c_int
        self._call("cuInit", 0)
        number = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(number), 0)
        self._device = number.value
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._device)
        self.name = text.value.decode()
        self.capability = f"sm{self._attribute(_MAJOR)}{self._attribute(_MINOR)}"
        self._call("cuDriverGetVersion", ctypes.byref(number))
        self.driver = _kernel_driver() or f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
        self._context = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == 0:
            return
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        raise TlcompileError(Problem("CUDA", f"{name} failed: {(text.value or b'').decode() or code}"))

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def use(self) -> None:
        """Make the GPU's primary context current in the calling thread."""
        if not self._context:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), 1)  # 1: does not wait for the default stream
        return handle.value or 0

    def destroy(self, stream: int) -> None:
        self._call("cuStreamDestroy_v2", stream)

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes of device memory."""
        address = _ADDRESS()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", address)

    def pin(self, size: int) -> int:
        """Address of `size` bytes of host memory that the GPU copies from and to without an intermediate copy."""
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), size, 0)
        return address.value or 0

    def unpin(self, address: int) -> None:
        self._call("cuMemFreeHost", address)

    def copy_in(self, address: int, pinned: int, size: int, stream: int) -> None:
        """Host -> device."""
        self._call("cuMemcpyHtoDAsync_v2", address, pinned, size, stream)

    def copy_out(self, pinned: int, address: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync_v2", pinned, address, size, stream)

    def record(self, stream: int) -> None:
        """From now on what is put on `stream` is recorded and not run."""
        self._call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)

    def recorded(self, stream: int) -> int:
        """End the recording: a graph that `replay` runs."""
        graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(runnable), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        return runnable.value or 0

    def replay(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def forget(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)


def _kernel_driver() -> str:
    """Version of NVIDIA's kernel module on Linux, e.g. `580.65.06`."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""
    return found.group() if found else ""
