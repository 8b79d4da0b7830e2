"""Accuracy of an opened engine on a labelled split, example by example, and the figures made of it.

`predict_split` runs inside the engine's own process (see `worker.py`), so it imports neither torch nor another runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tlcompile.artifacts import Feed, Runner, Signature, Splits
from tlcompile.data._split import Split
from tlcompile.evaluate.isolate import EngineProcess
from tlcompile.evaluate.statistics import bootstrap_interval
from tlcompile.runtime.feeds import batches, feeder

Answers = tuple[dict[str, Any], list[Feed]]


def predict_split(
    runner: Runner,
    signature: Signature,
    engine_folder: Path,
    split: Split,
    batch_size: int,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, np.ndarray]:
    """`probabilities` and `logits` float32 [n, classes] and `labels` int64 [n], in the order of the split.

    Examples are read batch by batch: memory does not grow with the split.
    """
    feed = feeder(signature, engine_folder)
    outputs: dict[str, np.ndarray] = {}
    for indices in batches(split, batch_size):
        found = runner.run(feed([split[i] for i in indices]))
        for name in ("probabilities", "logits"):
            rows = np.asarray(found[name], np.float32)
            outputs.setdefault(name, np.empty((len(split), rows.shape[1]), np.float32))[indices] = rows
        advance(len(indices))
    return {**outputs, "labels": np.asarray(split.labels, np.int64)}


def measure(engine: Path, splits: Splits, split: str, batch_size: int, golden: list[Feed], folder: Path) -> Answers:
    """Run the engine in `engine` over a split, in a process of its own; `outputs.npz` in `folder` keeps its scores.

    Returns the figures of `summarize` and what the engine answers to the `golden` feeds.
    """
    with EngineProcess(engine) as process:
        answers = [process.run(feed) for feed in golden]
        outputs = folder / "outputs.npz"
        process.command("predict", splits=str(splits.folder), split=split, batch_size=batch_size, outputs=str(outputs))
    with np.load(outputs, allow_pickle=False) as found:
        return summarize(found["probabilities"], found["labels"], splits.classes), answers


def summarize(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Top-1 with its 95 % bootstrap interval, per-class precision, recall and F1, and the confusion matrix.

    `confusion[i][j]` counts examples of class i that were called j.
    """
    predicted = probabilities.argmax(-1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    hits = np.diag(confusion)
    actual, called = confusion.sum(1), confusion.sum(0)
    per_class = [
        {
            "class": name,
            "n": int(actual[i]),
            "recall": _share(hits[i], actual[i]),
            "precision": _share(hits[i], called[i]),
            "f1": _share(2 * hits[i], actual[i] + called[i]),
        }
        for i, name in enumerate(classes)
    ]
    correct = predicted == labels
    return {
        "n": len(labels),
        "accuracy": float(correct.mean()),
        "accuracy_interval": list(bootstrap_interval(correct)),
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
