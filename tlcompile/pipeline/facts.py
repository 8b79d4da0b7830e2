"""Everything that the report, the gates and the manifest say, gathered from finished steps."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

from tlcompile.artifacts import Checkpoint, Engine, Evaluation, Graph, Splits, read_json
from tlcompile.evaluate.gates import Measured, Verdict, judge
from tlcompile.evaluate.statistics import Drop, paired_drop
from tlcompile.pipeline.choose import Candidate, choose
from tlcompile.pipeline.plan import BASE, engine_name
from tlcompile.pipeline.step import Made, tools
from tlcompile.recipe import Recipe, Target

LOCKED: tuple[str, ...] = (
    "accelerate",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxslim",
    "openvino",
    "pillow",
    "timm",
)
LOCKED += ("tokenizers", "torch", "torchvision", "transformers", "tensorrt", "tensorrt-rtx-cu13")


def gather(recipe: Recipe, made: Made) -> dict[str, Any]:
    """The facts of a build, as `tlcompile.report.write` lists them."""
    checkpoint = Checkpoint(made["train"].folder, made["train"].digest)
    splits = Splits(made["data"].folder, made["data"].digest)
    rows, verdicts = [], []
    latency = read_json(made["evaluate/latency"].folder / "latency.json").get("engines", {})
    for target in recipe.targets:
        measured = variants(recipe, target, made, latency, checkpoint)
        rows += [row for row, _, _ in measured]
        verdicts += gates(recipe, target, measured)
    first = next(row for row in rows if row["chosen"])
    result = Evaluation(made[first["evaluation"]].folder, "").result
    return {
        "name": recipe.name,
        "task": recipe.task,
        "classes": list(splits.classes),
        "recipe": recipe.resolved(),
        "gates": [v.to_json() for v in verdicts],
        "passed": all(v.passed for v in verdicts),
        "variants": rows,
        "parity": ladder(made),
        "history": read_json(checkpoint.folder / "history.json"),
        "confusion": result["confusion"],
        "per_class": result["per_class"],
        "data": {k: v for k, v in splits.info.items() if k != "calibration"},
        "applied": checkpoint.applied,
        "stages": [{"step": name, "seconds": entry.seconds, "cached": entry.cached} for name, entry in made.items()],
        "environment": environment(),
        "provenance": {name: entry.digest for name, entry in made.items()},
        "notes": notes(rows),
    }


Measurement = tuple[dict[str, Any], Drop, Candidate]


def variants(
    recipe: Recipe, target: Target, made: Made, latency: dict[str, Any], checkpoint: Checkpoint
) -> list[Measurement]:
    """A row of the variants table for each engine of `target`, and what the choice among them was made of."""
    with np.load(checkpoint.folder / "reference.npz", allow_pickle=False) as reference:
        right = reference["test_logits"].argmax(-1) == reference["test_labels"]
    found: list[Measurement] = []
    prefix = engine_name(target, "")
    for name in (n for n in made if n.startswith(prefix)):
        engine = Engine(made[name].folder, made[name].digest)
        evaluation = f"evaluate/{target.name}/{name.removeprefix(prefix)}"
        result = Evaluation(made[evaluation].folder, "").result
        with np.load(made[evaluation].folder / "outputs.npz", allow_pickle=False) as outputs:
            drop = paired_drop(right, outputs["probabilities"].argmax(-1) == outputs["labels"], recipe.evaluate.alpha)
        opened = latency.get(name, {})
        times = {f"batch_{size}": taken for size, taken in opened.get("batches", {}).items()}
        p50 = times.get("batch_1", {}).get("p50_ms")
        size = sum(f.stat().st_size for f in engine.folder.rglob("*") if f.is_file()) / 1e6
        candidate = Candidate(engine.info["variant"], drop, p50, size)
        row = {
            "engine": name,
            "evaluation": evaluation,
            "target": target.name,
            "variant": engine.info["variant"],
            "backend": engine.info["backend"],
            "accuracy": result["accuracy"],
            "accuracy_interval": result["accuracy_interval"],
            "n": result["n"],
            "drop": drop.drop,
            "drop_upper": drop.upper,
            "p_different": drop.p_different,
            "measured_in": result["measured_in"],
            "latency": times,
            "threads": opened.get("threads"),
            "device": opened.get("device"),
            "load_s": opened.get("load_s"),
            "rss_mib": opened.get("rss_mib"),
            "size_mb": size,
        }
        found.append((row, drop, candidate))
    best, why = choose([c for _, _, c in found], recipe.gates.max_accuracy_drop)
    for index, (row, _, _) in enumerate(found):
        row |= {"chosen": index == best, "why": why[index]}
    return found


def gates(recipe: Recipe, target: Target, measured: list[Measurement]) -> list[Verdict]:
    """The recipe's gates on the variant of `target` that ships."""
    row, drop, candidate = next(m for m in measured if m[0]["chosen"])
    batch_1 = row["latency"].get("batch_1", {})
    found = Measured(row["accuracy"], drop, batch_1.get("p50_ms"), batch_1.get("p99_ms"), candidate.size_mb)
    return judge(recipe.gates, found, target.name)


def ladder(made: Made) -> list[dict[str, Any]]:
    """Every parity rung, torch first; a rung that several graphs share stands once."""
    rungs: list[dict[str, Any]] = []
    for entry in made.values():
        path = entry.folder / "parity.json"
        for rung in read_json(path) if path.exists() else ():
            if rung not in rungs:
                rungs.append(rung)
    return rungs


def environment() -> dict[str, Any]:
    from tlcompile.compile import _cpu

    found = _cpu.device()
    return {
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        **found,
        "versions": tools(*LOCKED),
    }


def notes(rows: list[dict[str, Any]]) -> list[str]:
    stand_ins = [
        f"{r['engine']}: accuracy is that of the same graph in {r['measured_in']}"
        for r in rows
        if ":" in r["measured_in"]
    ]
    noisy = [
        f"{r['engine']}: {t['noisy']}"
        for r in rows
        for t in r["latency"].values()
        if isinstance(t, dict) and t.get("noisy")
    ]
    return [*stand_ins, *noisy]


def portable_graph(made: Made) -> Graph:
    """The last graph that every target shares: what the bundle carries beside the engines."""
    last = [name for name in made if name == "export" or name.startswith(BASE)][-1]
    return Graph(made[last].folder, made[last].digest)


Shipped = tuple[str, Engine, dict[str, Any], dict[str, Any]]


def shipped(facts: dict[str, Any], made: Made) -> list[Shipped]:
    """(name in the bundle, engine, what was measured, tolerance of its self-test), those that run here first."""
    rows = [row for row in facts["variants"] if row["chosen"]]
    rows.sort(key=lambda row: not row["latency"])
    found = []
    for row in rows:
        engine = Engine(made[row["engine"]].folder, made[row["engine"]].digest)
        measured = {
            k: row[k] for k in ("accuracy", "accuracy_interval", "n", "drop", "measured_in", "latency", "size_mb")
        }
        golden = read_json(made[row["evaluation"]].folder / "evaluation.json")["golden"]
        tolerance = {"max_abs": min(1.0, 2 * golden["max_abs"] + 0.01), "agreement": golden["agreement"] - 0.1}
        found.append((row["target"], engine, measured, tolerance))
    return found
