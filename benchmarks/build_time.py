"""What tlcompile itself costs: `--help`, and a build with nothing to do.

    python benchmarks/build_time.py [--short]

Builds a recipe of a tiny network once, then runs the same command again and again, in turns with `--help` and with a
Python that does nothing (what no Python program can be quicker than). Wall seconds, whole processes, medians of n.
The last line is one JSON object.
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

RECIPE = """name = "tiny"
[data]
task = "image-classification"
source = "sklearn"
[model]
library = "timm"
name = "test_efficientnet"
weights = "none"
image_size = 32
crop_pct = 1.0
[train]
epochs = 1
[optimize.quantize]
min_agreement = 0.0
[[compile]]
backend = "onnxruntime"
[evaluate]
latency_runs = 20
"""


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def imports_torch(build: list[str]) -> bool:
    """Whether a build with nothing to do has torch among its modules at its end."""
    code = "import sys; from tlcompile.cli import app; app(sys.argv[1:], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *build], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1] == "True"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer runs")
    n = 10 if parser.parse_args().short else 40
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "recipe.toml").write_text(RECIPE)
        build = ["build", str(place / "recipe.toml"), "--store", str(place / "store"), "--output", str(place / "dist")]
        tool = [sys.executable, "-m", "tlcompile"]
        first = seconds(*tool, *build)
        commands = {"noop": [*tool, *build], "help": [*tool, "--help"], "python": [sys.executable, "-c", "pass"]}
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(n + 1):  # the first round warms up
            for name, command in commands.items():
                taken[name].append(seconds(*command))
        torch_there = imports_torch(build)
    quantiles = {name: statistics.quantiles(times[1:], n=4) for name, times in taken.items()}
    print(
        json.dumps(
            {
                "noop_s": round(quantiles["noop"][1], 3),
                "help_s": round(quantiles["help"][1], 3),
                "overhead_ratio": None,
                "noop_imports_torch": torch_there,
                "why": {"overhead_ratio": "the same work by hand is not written yet"},
                "python_s": round(quantiles["python"][1], 3),
                "first_build_s": round(first, 1),
                "quartiles_s": {name: [round(q, 3) for q in cut] for name, cut in quantiles.items()},
                "n": n,
                "machine": {"cores": os.cpu_count(), "load_1min": os.getloadavg()[0]},
                "versions": {"python": platform.python_version()},
            }
        )
    )


if __name__ == "__main__":
    main()
