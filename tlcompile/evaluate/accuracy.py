"""Answers of an opened engine on a labelled split, example by example.

`predict_split` runs inside the engine's own process (see `worker.py`), so it imports neither torch nor another runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tlcompile.artifacts import Feed, Runner, Signature, Splits, read_json
from tlcompile.data._split import Split
from tlcompile.evaluate.figures import summarize
from tlcompile.evaluate.isolate import EngineProcess
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
    """`logits` and the signature's answer, float32 [n, K], and `labels`, those of `Split.truth`, in the split's order.

    Examples are read batch by batch: memory does not grow with the split.
    """
    feed = feeder(signature, engine_folder)
    outputs: dict[str, np.ndarray] = {}
    for indices in batches(split, batch_size):
        found = runner.run(feed([split[i] for i in indices]))
        for name in (signature.answer, "logits"):
            rows = np.asarray(found[name], np.float32)
            outputs.setdefault(name, np.empty((len(split), rows.shape[1]), np.float32))[indices] = rows
        advance(len(indices))
    return {**outputs, "labels": split.truth}


def measure(engine: Path, splits: Splits, split: str, batch_size: int, golden: list[Feed], folder: Path) -> Answers:
    """Run the engine in `engine` over a split, in a process of its own; `outputs.npz` in `folder` keeps its scores.

    Returns the figures of `summarize` and what the engine answers to the `golden` feeds.
    """
    with EngineProcess(engine) as process:
        answers = [process.run(feed) for feed in golden]
        outputs = folder / "outputs.npz"
        process.command("predict", splits=str(splits.folder), split=split, batch_size=batch_size, outputs=str(outputs))
    with np.load(outputs, allow_pickle=False) as found:
        signature = Signature.from_json(read_json(engine / "signature.json"))
        return summarize(found[signature.answer], found["labels"], signature.classes, signature.labels), answers
