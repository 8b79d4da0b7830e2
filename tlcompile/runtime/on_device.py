"""The child processes of `finalize`: one builds an engine of a bundle, one proves it there and takes its times.

A process of its own, so that a build that takes too much memory, or crashes, is not the end of the bundle. What the
runtime prints goes to standard error; standard output has one line of JSON, `{"ok": ...}` or `{"error": [...]}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tlcompile.artifacts import read_json, write_json
from tlcompile.errors import TlcompileError

_WARM = 10


def build(bundle: str, engine: str, folder: str, options: str) -> dict[str, Any]:
    """Build the bundle's engine into `folder`, with `options` (JSON) over those of its manifest."""
    from tlcompile import compile
    from tlcompile.package import manifest as manifests
    from tlcompile.runtime import rebuild
    from tlcompile.runtime.choose import asked, options_of

    (entry,) = asked(manifests.read(Path(bundle)), engine)
    there = compile.on_device(entry.backend, options_of(entry), Path(bundle) / entry.folder)
    start = time.monotonic()
    rebuild.build(Path(bundle), entry, there.model_copy(update=json.loads(options)), Path(folder))
    _as_asked(Path(folder) / "engine.json", entry.options, [*json.loads(options), *compile.carried(entry.backend)])
    return {"seconds": round(time.monotonic() - start, 3)}


def _as_asked(engine_json: Path, options: dict[str, Any], names: list[str]) -> None:
    """Limits and files of this one build are not options of the engine: those stay as the recipe has them."""
    info = read_json(engine_json)
    info["options"].update({name: options[name] for name in names if name in options})
    write_json(engine_json, info)


def prove(bundle: str, engine: str, runs: str) -> dict[str, Any]:
    """The golden self-test of an engine, and the milliseconds of one golden example."""
    import numpy as np

    from tlcompile.runtime import golden, load

    with load(Path(bundle), engine) as model:
        result = model.self_test()
        first, *_ = golden.load(model.opened.golden)[0]
        feed = {name: value[:1] for name, value in first.items()}
        ms = np.array([_ms(model, feed) for _ in range(_WARM + int(runs))][_WARM:])
        p50, p90, p99 = (float(f"{p:.4g}") for p in np.percentile(ms, [50, 90, 99]))
        latency = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "n": len(ms), "warmup": _WARM}
        test = {"ok": result.ok, "max_abs": result.max_abs, "agreement": result.agreement, "n": result.n}
        return {"self_test": test, "said": str(result), "latency": latency, "notes": list(model.notes)}


def _ms(model: Any, feed: Any) -> float:
    start = time.perf_counter()
    model.run(feed)
    return (time.perf_counter() - start) * 1000


_COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {"build": build, "prove": prove}


def main(arguments: Sequence[str]) -> None:
    command, *rest = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer: dict[str, Any] = {"ok": _COMMANDS[command](*rest)}
    except TlcompileError as error:
        answer = {"class": type(error).__name__, "error": [asdict(problem) for problem in error.problems]}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
