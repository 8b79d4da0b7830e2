"""Runs a child process of ours within a memory limit, and says what it took.

The limit is on resident memory and held by looking: a process that maps a GPU reserves far more addresses than it
uses, so a limit on addresses would end it at once. Memory that only the GPU's driver knows is not seen.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tlcompile
from tlcompile import errors
from tlcompile.errors import Problem, TlcompileError
from tlcompile.runtime import on_device

_LOOK_EVERY_S = 0.02
_LAST_LINES = 5
_START = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {on_device.__name__} import main; main(sys.argv[1:])"


def run(what: str, arguments: list[str], memory_mib: int | None = None) -> tuple[dict[str, Any], float | None]:
    """(answer, peak MiB) of `on_device` with `arguments`; `what` names the work in errors. Peak: None off Linux."""
    if memory_mib is not None and not Path("/proc/self/status").exists():
        raise TlcompileError(Problem("memory", "a limit can be held on Linux only"))
    root = str(Path(tlcompile.__file__).parents[1])
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen([sys.executable, "-B", "-c", _START, root, *arguments], stdout=told, stderr=said)
        try:
            peak, over = _watch(child, memory_mib)
        finally:
            child.kill()
            child.wait()
        for stream in (told, said):
            stream.seek(0)
        line, words = told.read(), said.read()
    if over:
        raise TlcompileError(Problem(what, f"ended: it took more than the {memory_mib} MiB of memory that it may"))
    return _answer(what, line, words, child.returncode), peak


def _watch(child: subprocess.Popen[Any], memory_mib: int | None) -> tuple[float | None, bool]:
    """(peak MiB, whether it took more than it may and was ended), when the child has ended."""
    peak: float | None = None
    while child.poll() is None:
        now, most = _memory(child.pid)
        peak = most if most is not None else peak
        if memory_mib is not None and now is not None and now > memory_mib:
            child.kill()
            return peak, True
        time.sleep(_LOOK_EVERY_S)
    return peak, False


def _memory(pid: int) -> tuple[float | None, float | None]:
    """Resident MiB of a process, now and at most so far."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None, None
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.MULTILINE))
    if len(found) < 2:
        return None, None  # it has just ended
    return int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024


def _answer(what: str, line: str, words: str, code: int) -> dict[str, Any]:
    if not line.strip():
        last = " ".join(words.strip().splitlines()[-_LAST_LINES:])
        raise TlcompileError(Problem(what, f"its process ended with exit code {code}; its last words: {last}"))
    answer: dict[str, Any] = json.loads(line)
    if "ok" in answer:
        ok: dict[str, Any] = answer["ok"]
        return ok
    raise getattr(errors, answer["class"])(*(Problem(**problem) for problem in answer["error"]))
