"""Whether there is an NVIDIA GPU, and which. Cheap: it asks the driver, not torch and no CUDA package."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from tlcompile.errors import BackendMissing, Problem, TlcompileError

if TYPE_CHECKING:
    from tlcompile.compile._driver import Gpu


@lru_cache
def _find() -> Gpu | str:
    """The GPU, or why there is none."""
    import ctypes

    from tlcompile.compile._driver import Gpu

    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return Gpu(ctypes.CDLL(name))
    except OSError:
        return f"no NVIDIA GPU here: its driver ({name}) is not installed"
    except TlcompileError as error:
        return f"no NVIDIA GPU is usable here: {error.problems[0].what}"


def why_no_gpu() -> str:
    """'' where there is an NVIDIA GPU."""
    found = _find()
    return found if isinstance(found, str) else ""


def facts() -> dict[str, str]:
    """Name, compute capability and driver of the GPU; empty where there is none."""
    found = _find()
    if isinstance(found, str):
        return {}
    return {"gpu": found.name, "compute_capability": found.capability, "driver": found.driver}


def gpu() -> Gpu:
    found = _find()
    if isinstance(found, str):
        raise BackendMissing(Problem("", found))
    return found
