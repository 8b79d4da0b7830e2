"""TensorRT's timing cache: measured times of kernels, which are most of a build.

A cache is of one TensorRT version and one GPU; another's is left aside, and that is said. An editable one can be read
and changed as JSON: which kernel a layer takes is then the user's choice, for example to build the same engine twice.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import write_json
from tlcompile.errors import Problem, TlcompileError

if TYPE_CHECKING:
    from pathlib import Path

    import tensorrt as stubs

    from tlcompile.compile._nvidia import TensorRT


def use(config: stubs.IBuilderConfig, backend: str, path: Path | None) -> None:
    """Start from the times in `path`, if there are any of this GPU and version."""
    from tlcompile import progress

    times = path.read_bytes() if path is not None and path.exists() else b""
    if _set(config, times):
        return
    progress.say(f"  {backend}: the timing cache {path} is damaged or of another GPU or version: dropped, times anew")
    _set(config, b"")


def _set(config: stubs.IBuilderConfig, times: bytes) -> bool:
    cache = config.create_timing_cache(times)
    return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))


def keep(config: stubs.IBuilderConfig, paths: list[Path]) -> None:
    """Write the times, old and new, to each of `paths`; a reader of the old file keeps a whole one."""
    times = bytes(config.get_timing_cache().serialize())
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(times)
        temporary.replace(path)


def entries(cache: stubs.ITimingCache) -> list[dict[str, Any]]:
    """What an editable cache holds: `key` (layer and shapes), `tactic` (the kernel chosen) and `ms`."""
    found = ((key, cache.query(key)) for key in cache.queryKeys())
    return [{"key": str(key), "tactic": value.tacticHash, "ms": value.timingMSec} for key, value in found]


def read_edits(path: Path) -> list[tuple[str, int, float]]:
    """(key, tactic, ms) of each entry of a JSON file like that of `write`; TlcompileError names every wrong one."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TlcompileError(Problem(str(path), f"not a list of edits: {error}")) from error
    problems, edits = [], []
    for index, row in enumerate(rows if isinstance(rows, list) else [rows]):
        try:
            edits.append((str(row["key"]), int(row["tactic"]), float(row["ms"])))
        except (KeyError, TypeError, ValueError):
            what = f"found {row!r}, expected an object with key (text), tactic (number) and ms (number)"
            problems.append(Problem(f"{path}: entry {index}", what))
    if problems:
        raise TlcompileError(*problems)
    return edits


def edit(trt: TensorRT, backend: str, cache: stubs.ITimingCache, path: Path) -> None:
    """Change the entries that the file `path` names; one that the cache does not know is an error."""
    problems = [
        Problem(f"{path}: entry {index}", f"{backend} has no entry '{key}', or can't take this kernel for it")
        for index, (key, tactic, ms) in enumerate(read_edits(path))
        if not cache.update(trt.TimingCacheKey.parse(key), trt.TimingCacheValue(tactic, ms))
    ]
    if problems:
        raise TlcompileError(*problems)


def write(config: stubs.IBuilderConfig, path: Path) -> None:
    write_json(path, entries(config.get_timing_cache()))
