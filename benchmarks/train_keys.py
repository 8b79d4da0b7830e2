"""What the keys of `[train]` about the machine are worth here: images/s and peak memory with each against without.

    python benchmarks/train_keys.py [--short]

EfficientNet-Lite0 on scikit-learn's digits at 64 and 128 px, fp32, batches of 32, every side a process of its own,
taking turns. Rates are those of the epochs after the first; ratios are medians of pairs of one round. `--short` is
64 px alone. The last line is one JSON object.
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
from importlib.metadata import version
from typing import Any

SIDES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "channels_last = false": {"channels_last": False},
    "fused = false": {"fused": False},
    "gradient_checkpointing = true": {"gradient_checkpointing": True},
    "without quick depthwise gradients": {},
    "compile = true": {"compile": True},
    "precision = bf16": {"precision": "bf16"},
}
SLOW = ("compile = true", "precision = bf16")
"""Sides that take minutes to start or to run: in the first round alone."""
CHILD = """
import json, sys
from pathlib import Path
from tlcompile.data import prepare
from tlcompile.data import sklearn as source
from tlcompile.models import timm
from tlcompile.recipe.tables import DataTable, Plugin
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import Job, depthwise, run
root, size, epochs, keys = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
if sys.argv[5] == "1":
    depthwise.LARGEST_AREA = 0
for name in ("splits", "out", "work"):
    (root / name).mkdir()
table = DataTable(task="image-classification", source="sklearn", calibration=8)
prepare(source, source.Options(), table, "image", 17, root / "splits")
options = timm.Options(name="tf_efficientnet_lite0", weights="none", image_size=size, crop_pct=1.0)
train = TrainTable(epochs=epochs, batch_size=32, save_every_s=1e9, **keys)
model = Plugin("models", "timm", options)
job = Job("image-classification", model, train, 17, root / "splits", tuple("0123456789"), root)
run(job, root / "out", root / "work")
print(json.dumps(json.loads((root / "out" / "history.json").read_text())[-1]))
"""


def measure(name: str, size: int, epochs: int) -> tuple[float, int]:
    """(images/s, peak MiB) of the last epoch of one run."""
    with tempfile.TemporaryDirectory() as folder:
        plain = "1" if name.startswith("without") else "0"
        command = [sys.executable, "-c", CHILD, folder, str(size), str(epochs), json.dumps(SIDES[name]), plain]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    return row["items_per_s"], row["peak_rss_mib"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    asked = parser.parse_args()
    sizes, rounds = ((64,) if asked.short else (64, 128)), 3
    found: dict[str, dict[str, list[tuple[float, int]]]] = {str(s): {name: [] for name in SIDES} for s in sizes}
    for turn in range(rounds):
        for size in sizes:
            for name in (n for n in SIDES if turn == 0 or n not in SLOW):
                found[str(size)][name].append(measure(name, size, 2))
                print(size, name, found[str(size)][name][-1], file=sys.stderr, flush=True)
    result = {
        size: {
            name: {
                "images_per_s": [rate for rate, _ in rows],
                "ratio": round(
                    statistics.median(r / b for (r, _), (b, _) in zip(rows, sides["as it is"], strict=False)), 3
                ),
                "peak_mib": max(peak for _, peak in rows),
            }
            for name, rows in sides.items()
        }
        for size, sides in found.items()
    }
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "load_1min": os.getloadavg()[0]}
    versions = {p: version(p) for p in ("torch", "timm", "accelerate")}
    print(json.dumps({"sizes": result, "rounds": rounds, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    main()
