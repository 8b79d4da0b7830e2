"""Which int8 arithmetic a CPU has, and what it is called.

VNNI multiplies u8 by s8 into 32 bits. Without it x86 adds pairs of products in 16 bits (`vpmaddubsw`), which saturate
unless one side keeps to 7 bits: the same Q/DQ graph that is accurate on one machine is wrong on the other. So the
instruction set is part of what a target is, and of the dialect that the quantizer must write.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

Isa = Literal["auto", "avx2", "vnni", "arm"]
_ARM = ("arm64", "aarch64")
_NAMES = {"avx2": "x86 without VNNI", "vnni": "x86 with VNNI", "arm": "ARM"}


@lru_cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def isa() -> str:
    """This machine's: `vnni`, `avx2` or `arm`. An x86 that does not tell its flags counts as `avx2`, the safe side."""
    import platform

    if platform.machine().lower() in _ARM:
        return "arm"
    flags = _cpuinfo().get("flags", "").split()
    return "vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "avx2"


def dialect(asked: str) -> str:
    """The Q/DQ dialect for the instruction set `asked`, where `auto` is this machine's."""
    return {"vnni": "x86-vnni", "avx2": "x86", "arm": "arm"}[isa() if asked == "auto" else asked]


def why_not(asked: str) -> str:
    """Why numbers of an engine for `asked` would not be its own here; ''. 7-bit weights are exact with VNNI too."""
    here = isa()
    if asked in ("auto", here) or (asked, here) == ("avx2", "vnni"):
        return ""
    return f"it is made for {_NAMES[asked]}, this machine is {_NAMES[here]}: int8 accuracy and speed differ"


def cores() -> int:
    """Physical cores that this process may use: two threads on one core share its arithmetic units.

    Logical ones where the system does not tell which belong together.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    logical = os.sched_getaffinity(0)
    siblings = (Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") for i in logical)
    try:
        return len({path.read_text() for path in siblings})
    except OSError:
        return len(logical)


def device() -> dict[str, str]:
    import platform

    info = _cpuinfo()
    model = info.get("model name") or info.get("Model") or platform.processor() or platform.machine()
    return {"cpu": model, "isa": isa(), "cores": str(cores())}
