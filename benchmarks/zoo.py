"""Which architectures become engines: build -> export -> simplify -> fp16, int8 -> engines, from random weights.

    python benchmarks/zoo.py [--short] [--only NAME ...] [--fresh] [--write-docs]

A cell is an architecture, a precision and a backend. It works if the graph holds parity with the step before it, the
engine builds, and, where it runs here, its answers are those of its graph. TensorRT-RTX builds ahead of time, for
sm86, with no GPU. Random weights say nothing of accuracy: normalisation statistics are taken from random pictures, and
the head is scaled so that answers differ between examples as much as trained ones do.

Graphs of one architecture are made in one process and each engine in one of its own, both with a time limit. Every
cell is written to `benchmarks/results/zoo.json` as soon as it is there; cells that are there are not made again.
`--short` takes one architecture of each library and says so; `--write-docs` renews the table of `docs/models.md`. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.zoo_networks import ALL, SHORT, SIDE, network_of, pictures  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
DOCS = ROOT / "docs" / "models.md"
MARKS = ("<!-- zoo: made by `python benchmarks/zoo.py --write-docs` -->", "<!-- /zoo -->")
VARIANTS = ("fp32", "fp16", "int8")
BACKENDS = ("onnxruntime", "openvino", "tensorrt_rtx")
LIMIT_S = 600


def make_graphs(name: str, folder: Path) -> dict[str, Any]:
    """Fill `folder` with a graph for each precision and dialect; the facts or the error of each."""
    from tests.families import exported, feeds_of, passed
    from tlcompile import compile as backends
    from tlcompile import registry
    from tlcompile.artifacts import ImageSpec, read_json
    from tlcompile.errors import TlcompileError

    found: dict[str, Any] = {}

    def step(key: str, make: Any) -> Any:
        start = time.monotonic()
        try:
            graph = make()
        except TlcompileError as error:
            found[key] = {"ok": False, "why": str(error).splitlines()[0][:200]}
            return None
        rung = read_json(graph.folder / "parity.json")[-1]
        seconds = round(time.monotonic() - start, 2)
        found[key] = {"ok": True, "max_abs": rung["max_abs"], "agreement": rung["agreement"], "seconds": seconds}
        return graph

    network = network_of(name, folder)
    found["parameters"] = sum(p.numel() for p in network.module.parameters())
    feeds = pictures(network.spec) if isinstance(network.spec, ImageSpec) else feeds_of(network)
    graph = step("export", lambda: exported(network, feeds, folder / "export"))
    base = graph and step("fp32", lambda: passed("simplify", graph, folder / "fp32"))
    if base:
        step("fp16", lambda: passed("half", base, folder / "fp16"))
        for dialect in {backends.dialect(b, registry.load("compile", b).Options()) for b in BACKENDS}:
            where = f"int8-{dialect}"
            step(where, lambda w=where, d=dialect: passed("quantize", base, folder / w, d, min_agreement=0.5))
    return found


def make_engine(folder: Path, variant: str, backend: str) -> dict[str, Any]:
    """Compile the graph and hold the engine against it."""
    from tlcompile import compile as backends
    from tlcompile import parity, registry
    from tlcompile.artifacts import Graph, read_json
    from tlcompile.errors import TlcompileError
    from tlcompile.export.graph import TOLERANCE as PIXELS
    from tlcompile.pipeline.stages import ENGINE_TOLERANCE
    from tlcompile.runtime import golden

    module = registry.load("compile", backend)
    ahead = {"compute_capability": ["sm86"], "image_px": [SIDE, SIDE, 2 * SIDE], "batch": [1, 1, 8]}
    options = module.Options(**(ahead if backend == "tensorrt_rtx" else {}))
    name = f"int8-{backends.dialect(backend, options)}" if variant == "int8" else variant
    graph, engine = Graph(folder / name, ""), folder / f"{backend}-{variant}"
    engine.mkdir()
    start = time.monotonic()
    try:
        backends.build(backend, options, graph, variant, engine)
        result: dict[str, Any] = {"ok": True, "build_s": round(time.monotonic() - start, 2)}
        if not read_json(engine / "engine.json")["runs_here"]:
            return result | {"parity": None}
        runner = backends.open_engine(engine)
        feeds, _ = golden.load(graph.folder / "golden.npz")
        found, expected = [runner.run(feed) for feed in feeds], parity.run_graph(graph.model, feeds)
        allowed = PIXELS if variant == "fp32" else ENGINE_TOLERANCE[variant]  # a runtime may round a pixel otherwise
        rung = parity.compare(backend, variant, found, expected, allowed, graph.signature)
        one = {key: value[:1] for key, value in feeds[0].items()}
        times = [seconds(lambda: runner.run(one)) for _ in range(9)]
        runner.close()
        parity.check(rung)
        return result | {
            "parity": rung.max_abs,
            "agreement": rung.agreement,
            "p50_ms": round(1e3 * sorted(times)[4], 2),
        }
    except TlcompileError as error:
        return {"ok": False, "why": str(error).splitlines()[0][:200]}


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_process(arguments: list[str]) -> dict[str, Any]:
    """The last line of a child of this script; a crash or the time limit is a failure like others."""
    try:
        child = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "why": f"stopped after {LIMIT_S} s"}
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [""])[-1]
        return {"ok": False, "why": f"exit code {child.returncode}: {last[:160]}"}
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def measure(name: str, results: dict[str, Any]) -> None:
    """All cells of one architecture, written one by one."""
    with tempfile.TemporaryDirectory() as scratch:
        graphs = in_process(["--graphs", name, "--folder", scratch])
        entry = results[name] = {"graphs": graphs, "cells": {}}
        for variant in VARIANTS:
            for backend in BACKENDS:
                made = [key for key, value in graphs.items() if key.startswith(variant) and isinstance(value, dict)]
                broken = [graphs[key]["why"] for key in made if not graphs[key]["ok"]]
                if made and not broken:
                    cell = in_process(["--engine", f"{variant}/{backend}", "--folder", scratch])
                else:
                    first = [value["why"] for value in (graphs, graphs.get("export", {})) if value.get("why")]
                    cell = {"ok": False, "why": (broken or first or ["no graph"])[0]}
                entry["cells"][f"{variant}/{backend}"] = cell
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{name:44} {variant}/{backend:14}", "ok" if cell["ok"] else cell["why"], flush=True)


def summary(results: dict[str, Any]) -> dict[str, Any]:
    cells = [(key, cell["ok"]) for entry in results.values() for key, cell in entry["cells"].items()]

    def share(found: list[bool]) -> float | None:
        return round(sum(found) / len(found), 4) if found else None

    return {
        "architectures": len(results),
        "cells": len(cells),
        "fp32_share": share([ok for key, ok in cells if key.startswith("fp32")]),
        "all_share": share([ok for _, ok in cells]),
        "failures": {
            f"{name}: {key}": cell["why"]
            for name, entry in results.items()
            for key, cell in entry["cells"].items()
            if not cell["ok"]
        },
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: a row an architecture, a column a precision and backend."""
    columns = [f"{variant}/{backend}" for variant in VARIANTS for backend in BACKENDS]
    lines = [f"| architecture | million weights | {' | '.join(c.replace('/', ' ') for c in columns)} |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name, entry in results.items():
        marks = ["✓" if entry["cells"].get(column, {}).get("ok") else "–" for column in columns]
        weights = entry["graphs"].get("parameters")
        lines.append(f"| {name} | {weights / 1e6:.1f} | {' | '.join(marks)} |" if weights else f"| {name} | | |")
    failures = summary(results)["failures"]
    return "\n".join([*lines, "", *(f"- {where}: {why}" for where, why in failures.items())]).rstrip()


def write_docs(results: dict[str, Any]) -> None:
    before, _, rest = DOCS.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCS.write_text(f"{before}{MARKS[0]}\n{table(results)}\n{MARKS[1]}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one architecture of each library")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures, e.g. timm/resnet18, made again")
    parser.add_argument("--fresh", action="store_true", help="forget the cells that are there")
    parser.add_argument("--write-docs", action="store_true", help="renew the table of docs/models.md from the cells")
    parser.add_argument("--graphs", help=argparse.SUPPRESS)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.graphs:
        print(json.dumps(make_graphs(asked.graphs, asked.folder)))
    elif asked.engine:
        variant, backend = asked.engine.split("/")
        print(json.dumps(make_engine(asked.folder, variant, backend)))
    else:
        run(asked)


def run(asked: argparse.Namespace) -> None:
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() and not asked.fresh else {}
    chosen = asked.only or (SHORT if asked.short else ALL)
    if unknown := [name for name in chosen if name not in ALL]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(ALL)}")
    full = len(VARIANTS) * len(BACKENDS)
    for name in chosen:
        if asked.only or len(results.get(name, {}).get("cells", {})) < full:
            measure(name, results)
    if asked.write_docs:
        write_docs(results)
    print(table(results))
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]}
    print(json.dumps({**summary(results), "short": asked.short, "machine": machine}))


if __name__ == "__main__":
    main()
