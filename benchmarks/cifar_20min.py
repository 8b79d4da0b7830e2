"""CIFAR-10 from pretrained weights to a proven bundle, on the clock: `recipes/cifar10_20min.toml` from an empty store.

    python benchmarks/cifar_20min.py [--short] [--data FOLDER]

`accuracy` is that of the engine that ships, on all test images; `wall_s` is the whole command, from nothing to the
bundle. Both are measured of a build that misses a gate too. `--short` halves the epochs. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "cifar10_20min.toml"
RESULT = ROOT / "benchmarks" / "results" / "cifar_20min.json"


def recipe(short: bool, folder: Path) -> Path:
    """The recipe itself, or beside the output one of half the epochs."""
    if not short:
        return RECIPE
    text = re.sub(r"^epochs = (\d+)", lambda m: f"epochs = {max(1, int(m[1]) // 2)}", RECIPE.read_text(), flags=re.M)
    path = folder / RECIPE.name
    path.write_text(text)
    return path


def built_report(folder: Path) -> dict[str, Any] | None:
    """The facts of the build below `folder`, also of one whose gates failed; None where it came to none."""
    said, failed = (folder / "said").read_text(), folder / "b.failed" / "report.json"
    if said.strip():
        report: dict[str, Any] = json.loads(said)["report"]
        return report
    return json.loads(failed.read_text()) if failed.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "cifar10")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [sys.executable, "-m", "tlcompile", "build", str(recipe(asked.short, folder)), "--json"]
        command += [
            "--data",
            str(asked.data.resolve()),
            "--store",
            str(folder / "store"),
            "--output",
            str(folder / "b"),
        ]
        start = time.monotonic()
        with (folder / "said").open("w+") as said:
            child = subprocess.Popen(command, stdout=said)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        report = built_report(folder)
    if report is None:
        print(json.dumps({"accuracy": None, "wall_s": wall, "why": {"accuracy": f"exit code {child.returncode}"}}))
        return
    ships = next(row for row in report["variants"] if row["chosen"])
    result = {
        "accuracy": ships["accuracy"],
        "wall_s": round(wall, 1),
        "n": ships["n"],
        "accuracy_interval": ships["accuracy_interval"],
        "engine": ships["engine"],
        "exit_code": child.returncode,
        "short": asked.short,
        "peak_mib": round(usage.ru_maxrss / 1024),
        "epochs": [
            {k: row[k] for k in ("epoch", "val_accuracy", "seconds", "items_per_s")} for row in report["history"]
        ],
        "stages_s": {s["step"]: round(s["seconds"], 1) for s in report["stages"]},
        "variants": [{k: row[k] for k in ("engine", "accuracy", "drop", "size_mb")} for row in report["variants"]],
        "machine": report["environment"],
        "load_1min": os.getloadavg()[0],
    }
    if not asked.short:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
