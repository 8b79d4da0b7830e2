"""Which architectures become engines: build -> export -> simplify -> fp16, int8 -> engines, from random weights.

    python benchmarks/zoo.py [--short] [--only NAME ...] [--workers N] [--fresh] [--write-docs]

A cell is an architecture, a precision and a backend. It works if the graph holds parity with the step before it, the
engine builds, and, where it runs here, its answers are those of its graph: the rules of a build, from the same
functions. TensorRT-RTX builds ahead of time, for sm86, with no GPU. Random weights say nothing of accuracy:
normalisation statistics are taken from random pictures, and the head is scaled so that answers differ between examples
as much as trained ones do.

Each architecture has a process of its own with a time limit. A graph or a cell in which it crashes has failed; another
process makes those behind it. Architectures that are whole in `benchmarks/results/zoo.json` are not made again, so a
run that was killed goes on where it was. `--short` takes as many architectures, one of each library first, as fit in
nine minutes, into a file of its own. `--write-docs` renews the table of `docs/models.md`. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.zoo_networks import ALL, SIDE, network_of, pictures  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "models.md"
MARKS = ("<!-- zoo: made by `python benchmarks/zoo.py --write-docs` -->", "<!-- /zoo -->")
VARIANTS = ("fp32", "fp16", "int8")
BACKENDS = ("onnxruntime", "openvino", "tensorrt_rtx")
COLUMNS = tuple(f"{variant}/{backend}" for variant in VARIANTS for backend in BACKENDS)
LIMIT_S, SHORT_S = 900, 540
SHOWN = ("max_abs", "agreement", "logits")


def sentence(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class Bench:
    """What is done of one architecture, on disk, so that another process goes on behind a crash.

    `made.jsonl` has a line [step, facts] for each step that is done, `now` names the one that is under way. Steps are
    the graphs (`export`, `fp32`, `fp16`, `int8-DIALECT`) and the cells of `COLUMNS`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.now = folder, folder / "made.jsonl", folder / "now"

    @property
    def made(self) -> dict[str, Any]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return dict(json.loads(line) for line in lines)

    def note(self, step: str, facts: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps([step, facts]) + "\n")
        self.now.unlink(missing_ok=True)

    def __call__(self, step: str, make: Callable[[], dict[str, Any]]) -> bool:
        """Do `step` unless it is done; whether it worked. Errors of ours are facts."""
        from tlcompile.errors import TlcompileError

        made = self.made
        if step in made:
            return bool(made[step]["ok"])
        self.now.write_text(step)
        start = time.monotonic()
        try:
            facts = {"ok": True, **make(), "seconds": round(time.monotonic() - start, 2)}
        except TlcompileError as error:
            facts = {"ok": False, "why": sentence(error)}
        self.note(step, facts)
        return bool(facts["ok"])


def make_graphs(name: str, bench: Bench) -> None:
    """A graph for each precision and dialect, each a step of `bench`."""
    from tests.families import exported, feeds_of, passed
    from tlcompile import compile as backends
    from tlcompile import registry
    from tlcompile.artifacts import Graph, ImageSpec, read_json
    from tlcompile.errors import TlcompileError
    from tlcompile.export.graph import EXPORTERS

    folder, base = bench.folder, Graph(bench.folder / "fp32", "")

    def facts(graph: Graph) -> dict[str, Any]:
        rung = read_json(graph.folder / "parity.json")[-1]
        return {key: rung.get(key) for key in SHOWN}

    def quantized(dialect: str) -> dict[str, Any]:
        return facts(passed("quantize", base, folder / f"int8-{dialect}", dialect, min_agreement=0.5))

    def export() -> dict[str, Any]:
        network = network_of(name, folder)
        feeds = pictures(network.spec) if isinstance(network.spec, ImageSpec) else feeds_of(network)
        first, other = EXPORTERS  # as the export stage: the other where the first gives no graph that answers alike
        try:
            found, exporter = facts(exported(network, feeds, folder / "export", first)), first
        except TlcompileError:
            found, exporter = facts(exported(network, feeds, folder / "export", other)), other
        return {**found, "exporter": exporter, "parameters": sum(p.numel() for p in network.module.parameters())}

    if not bench("export", export):
        return
    if not bench("fp32", lambda: facts(passed("simplify", Graph(folder / "export", ""), base.folder))):
        return
    bench("fp16", lambda: facts(passed("half", base, folder / "fp16", min_agreement=0.8)))  # of 16 near a tie
    for dialect in sorted({backends.dialect(b, registry.load("compile", b).Options()) for b in BACKENDS}):
        bench(f"int8-{dialect}", partial(quantized, dialect))


def graph_of(variant: str, backend: str, options: Any) -> str:
    from tlcompile import compile as backends

    return f"int8-{backends.dialect(backend, options)}" if variant == "int8" else variant


def make_engine(folder: Path, variant: str, backend: str, made: dict[str, Any]) -> dict[str, Any]:
    """Compile the graph and hold the engine against it. TlcompileError where that, or a step before it, failed."""
    from tlcompile import compile as backends
    from tlcompile import registry
    from tlcompile.artifacts import Graph, read_json
    from tlcompile.errors import Problem, TlcompileError

    ahead = {"compute_capability": ["sm86"], "image_px": [SIDE, SIDE, 2 * SIDE], "batch": [1, 1, 8]}
    options = registry.load("compile", backend).Options(**(ahead if backend == "tensorrt_rtx" else {}))
    name = graph_of(variant, backend, options)
    for step in ("export", "fp32", name):
        if not made[step]["ok"]:
            raise TlcompileError(Problem(f"the graph {step}", made[step]["why"]))
    graph, engine = Graph(folder / name, ""), folder / f"{backend}-{variant}"
    engine.mkdir(exist_ok=True)
    start = time.monotonic()
    backends.build(backend, options, graph, variant, engine)
    result: dict[str, Any] = {"build_s": round(time.monotonic() - start, 2)}
    return result | (run_engine(engine, graph, variant) if read_json(engine / "engine.json")["runs_here"] else {})


def run_engine(folder: Path, graph: Any, variant: str) -> dict[str, Any]:
    """How far the engine is from its graph, by the rule of a build, and the time of one example."""
    from tlcompile import compile as backends
    from tlcompile import parity
    from tlcompile.artifacts import read_json
    from tlcompile.runtime import golden

    feeds, _ = golden.load(graph.folder / "golden.npz")
    runner = backends.open_engine(folder)
    answers = [runner.run(feed) for feed in parity.probes(feeds, graph.signature)]
    one = {key: value[:1] for key, value in feeds[0].items()}
    times = sorted(seconds(lambda: runner.run(one)) for _ in range(5))
    runner.close()
    before = read_json(graph.folder / "parity.json")[-1]
    rungs = parity.compare_engine(folder.name, before, answers, graph.model, feeds, variant, graph.signature)
    last = [parity.check(rung) for rung in rungs][-1]  # of images: on exact pixels
    return {key: getattr(last, key) for key in SHOWN} | {"p50_ms": round(1e3 * times[2], 2)}


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def work(name: str, folder: Path) -> None:
    """In a process of one architecture: what is not done yet of its graphs and cells."""
    bench = Bench(folder)
    make_graphs(name, bench)
    for column in COLUMNS:
        variant, backend = column.split("/")
        bench(column, partial(make_engine, folder, variant, backend, bench.made))


def measure(name: str) -> dict[str, Any]:
    """All steps of one architecture. A crash or the time limit is a failure of the step it came in, like others."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        while why := in_process(["--work", name, "--folder", scratch]):
            if not bench.now.exists():
                raise SystemExit(f"{name}: {why}")  # a mistake of this script
            bench.note(bench.now.read_text(), {"ok": False, "why": why})
        made = bench.made
    cells = {column: made.pop(column) for column in COLUMNS}
    known = {key: made["export"].pop(key) for key in ("parameters", "exporter") if key in made["export"]}
    return {"graphs": known | made, "cells": cells, "seconds": round(time.monotonic() - start, 1)}


def in_process(arguments: list[str]) -> str:
    """Run a child of this script; why it ended early, or ''."""
    command = [sys.executable, __file__, *arguments]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return f"stopped after {LIMIT_S} s"
    last = (child.stderr.strip().splitlines() or [""])[-1]
    if child.returncode < 0:
        return f"crashed: {signal.Signals(-child.returncode).name}"
    return f"exit code {child.returncode}: {last[:160]}" if child.returncode else ""


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


def mark(cell: dict[str, Any]) -> str:
    """How far the logits of the engine are from its graph's, in percent of their spread; ✓ where it is only built."""
    if not cell["ok"]:
        return "–"
    return "✓" if cell.get("logits") is None else f"✓ {100 * cell['logits']:.2g}"


def table(results: dict[str, Any]) -> str:
    """Markdown: a row an architecture, a column a precision and backend."""
    heads = ["architecture", "million weights", *(column.replace("/", " ") for column in COLUMNS), "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in (name for name in ALL if name in results):
        entry = results[name]
        weights = f"{entry['graphs'].get('parameters', 0) / 1e6:.1f}"
        row = [name, weights, *(mark(entry["cells"][column]) for column in COLUMNS), f"{entry['seconds']:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    failures = summary(results)["failures"]
    return "\n".join([*lines, "", *(f"- {where}: {why}" for where, why in failures.items())]).rstrip()


def write_docs(results: dict[str, Any]) -> None:
    before, _, rest = DOCS.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCS.write_text(f"{before}{MARKS[0]}\n{table(results)}\n{MARKS[1]}{after}")


def in_turns(names: list[str]) -> list[str]:
    """One of each library, then the next of each, and so on: a part of the zoo is then a cross-section of it."""
    libraries: dict[str, list[str]] = {}
    for name in names:
        libraries.setdefault(name.partition("/")[0], []).append(name)
    place = {name: index for group in libraries.values() for index, name in enumerate(group)}
    return sorted(names, key=place.__getitem__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="stop after nine minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures, e.g. timm/resnet18, made again")
    parser.add_argument("--workers", type=int, default=1, help="architectures that are made at once")
    parser.add_argument("--fresh", action="store_true", help="forget the cells that are there")
    parser.add_argument("--write-docs", action="store_true", help="renew the table of docs/models.md from the cells")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.folder)
    elif unknown := [name for name in asked.only or () if name not in ALL]:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(ALL)}")
    else:
        run(asked)


def run(asked: argparse.Namespace) -> None:
    file = RESULTS / ("zoo_short.json" if asked.short else "zoo.json")
    forget = asked.fresh or asked.short or not file.exists()
    results: dict[str, Any] = {} if forget else json.loads(file.read_text())
    end = time.monotonic() + (SHORT_S if asked.short else float("inf"))
    names = in_turns(asked.only or [name for name in ALL if name not in results])
    with ThreadPoolExecutor(asked.workers) as pool:
        turns = {pool.submit(lambda n: measure(n) if time.monotonic() < end else None, name): name for name in names}
        for turn in as_completed(turns):
            if entry := turn.result():
                results[turns[turn]] = entry
                file.write_text(json.dumps(results, indent=1) + "\n")
                failed = [f"{column}: {cell['why']}" for column, cell in entry["cells"].items() if not cell["ok"]]
                print(f"{turns[turn]:40} {entry['seconds']:6.1f} s  {'; '.join(failed) or 'ok'}", flush=True)
    if asked.write_docs:
        write_docs(results)
    print(table(results))
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]}
    print(json.dumps({**summary(results), "short": asked.short, "machine": machine, "versions": versions()}))


def versions() -> dict[str, str]:
    from importlib import metadata

    names = ("torch", "timm", "torchvision", "transformers", "onnx", "onnxruntime", "openvino", "tensorrt_rtx_cu13")
    return {name: metadata.version(name) for name in names}


if __name__ == "__main__":
    main()
