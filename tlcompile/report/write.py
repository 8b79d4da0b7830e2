"""Facts of a build -> `report.json` (the facts), `report.md` (to be read) and `pictures/*.png`.

The facts are plain JSON values; every key may be absent, and what is absent is left out of the page:

    name, task, classes        as in the recipe and the data
    metric                     what the headline figure `accuracy` is called: accuracy, label accuracy, R²
    metrics                    further figures of the engine that ships, by name
    recipe                     the recipe with every default
    gates                      [{target, gate, limit, value, passed, deferred, why}]
    variants                   [{engine, target, variant, backend, accuracy, accuracy_interval: [low, high], n, drop,
                               drop_upper, measured_in: the backend, or what stood in for it, latency: {batch_1:
                               {p50_ms, p90_ms, p99_ms, n}, batch_N: {…, throughput_per_s}}, size_mb, chosen, why,
                               corrected, corrupted, p_single: against the best single network, where it was asked for}]
    selection                  what was kept of views (`tta`) and members (`ensemble`) on validation examples, and why
    explored                   {speedups, threads, budget_minutes, left_out: [{line, verdict, why}]}; each of `variants`
                               then also has threads and frontier: no other is both faster and at least as accurate
    early_exit                 [{engine, accuracy, mean_ms, p99_ms, examples, threshold, left, first_ms, all_ms, curve:
                               [{threshold, left, score, mean_ms}]}]: engines that may take the first voice alone
    compression                step -> content of its prune.json, sparse.json or search.json
    layers                     engine and plan -> [{name, kind, tactic: the kernel chosen, inputs: [type]}]
    parity                     [{rung, against, max_abs, agreement, tolerance, ok}]
    history                    [{epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr, seconds}]
    confusion                  matrix of the chosen variant: row = true class, column = predicted class
    per_class                  [{class, …numbers}]
    predictions                [[true, predicted]] numbers
    data                       content of data.json
    applied                    hyper-parameters, read back from what ran
    stages                     [{step, seconds, cached}]
    environment                {python, platform, cpu, isa, cores, versions, …}
    views                      texts as the network received them, each with its label in front
    notes                      sentences

Equal facts give equal files: no time of day is written.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from tlcompile.artifacts import write_json
from tlcompile.report.page import page
from tlcompile.report.pictures import draw_all


def write(facts: dict[str, Any], folder: Path, samples: Path | None = None) -> None:
    """Fill `folder` with report.json, report.md and, where there is something to draw, pictures/*.png.

    `samples` has `views.png`: pictures as the network received them.
    """
    facts = plain(facts)
    write_json(folder / "report.json", facts)
    pictures = draw_all(facts, folder / "pictures")
    if samples and (samples / "views.png").exists():
        (folder / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(samples / "views.png", folder / "pictures" / "views.png")
        pictures = pictures | {"views"}
    (folder / "report.md").write_text(page(facts, pictures), encoding="utf-8")


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numpy numbers and arrays as Python's, NaN and infinities as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
