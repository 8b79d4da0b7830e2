"""Optimizers at equal steps: which learns scikit-learn's digits best from random weights, and what a step costs.

    python benchmarks/optimizers.py [--short | --smoke]

A small timm network is trained from the same random weights on the same batches by each optimizer of `[train]`, with
every rate of one grid, betas, momentum and decay being the optimizer's own. The schedule is `auto`: cosine, and
constant for Schedule-Free; all warm up. Batch norms are recalibrated before a network is judged, which Schedule-Free
needs. Seeds (weights, batches) are the outermost loop and optimizers the innermost, so that whatever slows the machine
slows all of them.

An optimizer's rate is the one with the best mean accuracy on validation examples; its accuracy is that of this rate on
test examples, which chose nothing. If a chosen rate is first or last of the grid that is said, as the grid is then too
narrow. Milliseconds a step are medians over all runs: forward, backward, clipping and the optimizer. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import optim, schedules
from tlcompile.train.averaging import recalibrate

OPTIMIZERS = ("adamw", "sgd", "lion", "muon", "schedulefree")
NETWORK, BATCH = "test_efficientnet", 32
TRAIN, VAL = 1000, 397  # the rest of the 1,797 digits is the test split


@dataclass(frozen=True)
class Size:
    steps: int
    seeds: int
    rates: tuple[float, ...]


FULL = Size(300, 5, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1))
SHORT = Size(100, 2, (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1))
SMOKE = Size(6, 1, (1e-3, 1e-2))


def splits() -> dict[str, tuple[Tensor, Tensor]]:
    """float32 [N, 1, 16, 16] (each of the 8 × 8 pixels twice as wide and high), int64 [N]; shuffled once."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.tensor(pixels[order] / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    images, targets = nn.functional.interpolate(images, scale_factor=2), torch.tensor(labels[order])
    parts = {"train": slice(0, TRAIN), "val": slice(TRAIN, TRAIN + VAL), "test": slice(TRAIN + VAL, None)}
    return {name: (images[part], targets[part]) for name, part in parts.items()}


def run(name: str, lr: float, seed: int, steps: int, data: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Accuracy on val and test, and the median of milliseconds a step, of one training run."""
    torch.manual_seed(seed)
    module = timm.create_model(NETWORK, num_classes=10, in_chans=1)
    table = TrainTable(optimizer=name, lr=lr)
    table = table.model_copy(update={"schedule": schedules.resolve(table, "image")})
    optimizer = optim.optimizer(module, ("classifier",), table, {})
    schedule = schedules.Schedule(optimizer, table, steps, table.epochs)
    images, targets = data["train"]
    order = torch.Generator().manual_seed(seed)
    taken = []
    module.train()
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH,), generator=order)
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(module(images[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), table.clip_norm)
        optimizer.step()
        schedule.step()
        taken.append(1000 * (time.perf_counter() - start))
    optim.to_eval(optimizer)
    recalibrate(module, (({"x": part}, None) for part in images.split(100)))
    found = {part: accuracy(module, *data[part]) for part in ("val", "test")}
    return {**found, "step_ms": statistics.median(taken)}


@torch.inference_mode()
def accuracy(module: nn.Module, images: Tensor, targets: Tensor) -> float:
    module.eval()
    return float((module(images).argmax(1) == targets).float().mean())


def summary(name: str, runs: dict[tuple[str, float], list[dict[str, Any]]], rates: tuple[float, ...]) -> dict[str, Any]:
    """The chosen rate of one optimizer and what it reached; `at_edge`: the grid should have gone further."""
    val = {lr: statistics.mean(r["val"] for r in runs[name, lr]) for lr in rates}
    best = max(rates, key=val.__getitem__)
    tests = [r["test"] for r in runs[name, best]]
    return {
        "lr": best,
        "at_edge": best in (rates[0], rates[-1]),
        "val_accuracy": round(val[best], 4),
        "test_accuracy": round(statistics.mean(tests), 4),
        "test_accuracy_of_seeds": [round(t, 4) for t in tests],
        "val_accuracy_of_rates": {str(lr): round(value, 4) for lr, value in val.items()},
        "step_ms": round(statistics.median(r["step_ms"] for lr in rates for r in runs[name, lr]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--short", action="store_true", help="fewer steps, rates and seeds; under 3 minutes on 2 cores")
    which.add_argument("--smoke", action="store_true", help="seconds: that it runs, not what it finds")
    asked = parser.parse_args()
    size = SHORT if asked.short else SMOKE if asked.smoke else FULL
    data, runs = splits(), defaultdict(list)
    run("adamw", 1e-3, 0, 3, data)  # warms up
    start = time.monotonic()
    for seed in range(size.seeds):
        for lr in size.rates:
            for name in OPTIMIZERS:
                runs[name, lr].append(run(name, lr, seed, size.steps, data))
        print(f"seed {seed + 1}/{size.seeds}  {time.monotonic() - start:.0f} s", file=sys.stderr)
    found = {name: summary(name, runs, size.rates) for name in OPTIMIZERS}
    for name, row in found.items():
        print(f"{name:13} lr {row['lr']:<6g} test {row['test_accuracy']:.4f}  {row['step_ms']:.1f} ms a step")
    about = {"network": NETWORK, "batch": BATCH, **asdict(size), "test_examples": len(data["test"][1])}
    machine = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.machine()}
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
    print(json.dumps({"optimizers": found, **about, **machine, **versions}))


if __name__ == "__main__":
    main()
