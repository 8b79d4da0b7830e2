"""Build recipes from an empty store and say what came out: the table of the README.

    python benchmarks/recipes.py [--short] [--store DIR] [RECIPE...]

Each build is a process of its own; its wall time and its peak resident memory (it and its children, the larger) are
those that the system counted. A second run of the same command measures the build with nothing to do. `--short` builds
the quickstart alone. Each recipe's figures replace its older ones in `benchmarks/results/recipes.json` as soon as they
are there; the last line is that file as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ALL = ("quickstart", "rtx", "flowers", "sst2", "cifar10")
NOOP_RUNS = 5
RESULTS = ROOT / "benchmarks" / "results" / "recipes.json"


def run(name: str, store: Path, output: Path) -> dict[str, Any]:
    """Seconds, peak MiB and the printed JSON of one build; RuntimeError with its last words where it failed."""
    command = [sys.executable, "-m", "tlcompile", "build", f"recipes/{name}.toml", "--json"]
    command += ["--store", str(store), "--output", str(output)]
    with tempfile.TemporaryFile("w+") as said:
        start = time.monotonic()
        child = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=None)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        code = os.waitstatus_to_exitcode(status)
        child.returncode = code
        said.seek(0)
        text = said.read()
    if code:
        raise RuntimeError(f"{name}: exit code {code}")
    return {"wall_s": seconds, "peak_mib": usage.ru_maxrss / 1024, **json.loads(text)}


def measure(name: str, store: Path, output: Path) -> dict[str, Any]:
    built = run(name, store, output)
    again = [run(name, store, output)["wall_s"] for _ in range(NOOP_RUNS)]
    report = built["report"]
    trained = next((s["seconds"] for s in built["steps"] if s["step"] == "train" and not s["cached"]), None)
    rows = [
        {
            "engine": row["engine"].removeprefix("compile/"),
            "accuracy": row["accuracy"],
            "interval": row["accuracy_interval"],
            "drop_points": 100 * row["drop"],
            "p50_ms": row["latency"].get("batch_1", {}).get("p50_ms"),
            "size_mb": row["size_mb"],
            "ships": row["chosen"],
            "measured_in": row["measured_in"],
        }
        for row in report["variants"]
    ]
    return {
        "wall_s": round(built["wall_s"], 1),
        "train_s": trained,
        "peak_mib": round(built["peak_mib"]),
        "noop_s": {"n": NOOP_RUNS, "median": round(statistics.median(again), 3), "max": round(max(again), 3)},
        "test_examples": report["variants"][0]["n"],
        "engines": rows,
        "environment": report["environment"],
    }


def table(results: dict[str, Any]) -> str:
    """Markdown for the README."""
    lines = ["| recipe | engine | accuracy | int8 − fp32, points | p50, batch 1 | MB |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        rows = {row["engine"]: row for row in result["engines"]}
        for engine, row in rows.items():
            base = rows.get(engine.rpartition("/")[0] + "/fp32", row)
            gap = "" if base is row else f"{100 * (row['accuracy'] - base['accuracy']):+.2f}"
            speed = f"{row['p50_ms']:.1f} ms" if row["p50_ms"] else "not run here"
            ships = " **ships**" if row["ships"] else ""
            cells = (name, engine + ships, f"{row['accuracy']:.4f}", gap, speed, f"{row['size_mb']:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=ALL, metavar="RECIPE")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--store", type=Path, help="keep the store here, and begin with what is in it")
    asked = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        store = (asked.store or Path(scratch) / "store").resolve()
        for name in ("quickstart",) if asked.short else asked.recipes:
            results[name] = measure(name, store, Path(scratch) / "dist" / name)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]}
    print(json.dumps({"recipes": results, "machine": machine}))


if __name__ == "__main__":
    main()
