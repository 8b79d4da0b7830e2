"""Everything that the report, the gates and the manifest say, gathered from finished steps."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tlcompile import registry
from tlcompile.artifacts import Checkpoint, Engine, Evaluation, Graph, read_json
from tlcompile.evaluate.figures import scores
from tlcompile.evaluate.gates import Verdict, judge
from tlcompile.evaluate.statistics import Drop, MeanDrop, paired_drop
from tlcompile.pipeline import explore, explore_choice
from tlcompile.pipeline.choose import Candidate, choose
from tlcompile.pipeline.contenders import budget, choices, early_exits, in_two, kind_of, mean_of, told
from tlcompile.pipeline.explore import named
from tlcompile.pipeline.explore_choice import Measurement
from tlcompile.pipeline.plan import BASE, FP32
from tlcompile.pipeline.pseudo_steps import joined
from tlcompile.pipeline.step import Made, splits_of, tools
from tlcompile.pipeline.steps import engine_name
from tlcompile.recipe import Recipe, Target, opset

COMPRESSION = ("prune.json", "sparse.json", "search.json")
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
    splits = splits_of(made)
    rows, verdicts = [], []
    latency = read_json(made["evaluate/latency"].folder / "latency.json").get("engines", {})
    for group in explore.groups(recipe):
        measured = variants(recipe, group, made, latency, checkpoint)
        rows += [row for row, _, _ in measured]
        verdicts += gates(recipe, measured)
    first = next(row for row in rows if row["chosen"])
    result = Evaluation(made[first["evaluation"]].folder, "").result
    task = registry.load("tasks", recipe.task)
    return {
        "name": recipe.name,
        "task": recipe.task,
        "metric": task.METRIC,
        "metrics": {"headline": task.METRIC, **result["metrics"]},
        "classes": list(splits.classes),
        "recipe": recipe.resolved(),
        "gates": [v.to_json() for v in verdicts],
        "passed": all(v.passed for v in verdicts),
        "variants": rows,
        "selection": choices(made),
        "early_exit": early_exits(rows, choices(made)),
        "explored": explore_choice.facts(recipe, made),
        "compression": compression(made),
        "layers": layers(rows, made),
        "parity": ladder(made),
        "history": read_json(checkpoint.folder / "history.json"),
        "confusion": result["confusion"],
        "per_class": result["per_class"],
        "predictions": predictions(made[first["evaluation"]].folder) if task.LABELS == "number" else [],
        "data": {k: v for k, v in splits.info.items() if k != "calibration"},
        "applied": checkpoint.applied,
        "stages": [{"step": name, "seconds": entry.seconds, "cached": entry.cached} for name, entry in made.items()],
        "environment": environment(),
        "provenance": {name: entry.digest for name, entry in made.items()},
        "views": views(checkpoint.folder / "samples" / "views.txt"),
        "notes": [
            *notes(rows),
            *told(choices(made)),
            *in_two(recipe),
            *joined(made),
            *exported(recipe, made["export"].folder),
            *checkpoint.applied.get("notes", ()),
        ],
    }


def predictions(evaluation: Path, shown: int = 2000) -> list[list[float]]:
    """(true, predicted) numbers of at most `shown` test examples, evenly taken, for the picture."""
    with np.load(evaluation / "outputs.npz", allow_pickle=False) as outputs:
        pairs = np.stack([outputs["labels"], outputs["values"][:, 0]], axis=1).astype(np.float64)
    found: list[list[float]] = pairs[:: -(-len(pairs) // shown)].tolist()
    return found


def variants(
    recipe: Recipe, targets: tuple[Target, ...], made: Made, latency: dict[str, Any], checkpoint: Checkpoint
) -> list[Measurement]:
    """A row of the variants table for each engine of `targets`, and what the choice among them was made of."""
    labels = registry.load("tasks", recipe.task).LABELS
    with np.load(checkpoint.folder / "reference.npz", allow_pickle=False) as reference:
        wanted = scores(reference["test_logits"], reference["test_labels"], labels, threshold=0.0)
    limits = budget(recipe, made, wanted, labels)
    found: list[Measurement] = []
    for target, name in ((t, n) for t in targets for n in made if n.startswith(engine_name(t, ""))):
        if explore.skipped(made[name]):
            continue
        engine = Engine(made[name].folder, made[name].digest)
        evaluation = name.replace("compile", "evaluate", 1)
        with np.load(made[evaluation].folder / "outputs.npz", allow_pickle=False) as outputs:
            reached = scores(outputs[engine.signature.answer], outputs["labels"], labels)
        drop = paired_drop(wanted, reached, recipe.evaluate.alpha)
        row = {
            "engine": name,
            "evaluation": evaluation,
            "target": target.name,
            "precision": precision_of(recipe, engine.info["variant"]),
            **row_of(engine, Evaluation(made[evaluation].folder, "").result, drop, latency.get(name, {})),
        }
        p50 = row["latency"].get("batch_1", {}).get("p50_ms")
        kind = kind_of(row["variant"])
        candidate = Candidate(row["variant"], drop, p50, row["size_mb"], kind, reached, mean_ms=mean_of(row))
        found.append((row, drop, candidate))
        if limits:
            gain = paired_drop(limits.single, reached, recipe.evaluate.alpha)
            row |= {"corrected": gain.c, "corrupted": gain.b, "p_single": gain.p_different}
    found = explore_choice.contest(recipe, found)
    best, why = choose([c for _, _, c in found], recipe.gates.max_accuracy_drop, limits)
    for index, (row, _, _) in enumerate(found):
        row |= {"chosen": index == best, "why": why[index]}
    return found


def row_of(engine: Engine, result: dict[str, Any], drop: Drop | MeanDrop, opened: dict[str, Any]) -> dict[str, Any]:
    """What was measured of one engine; `opened` is what the latency run says, empty where it does not run here."""
    return {
        "variant": engine.info["variant"],
        "backend": engine.info["backend"],
        "accuracy": result["accuracy"],
        "accuracy_interval": result["accuracy_interval"],
        "n": result["n"],
        "drop": drop.drop,
        "drop_upper": drop.upper,
        "p_different": drop.p_different,
        "measured_in": result["measured_in"],
        "latency": {f"batch_{size}": taken for size, taken in opened.get("batches", {}).items()},
        **{key: opened.get(key) for key in ("threads", "device", "load_s", "rss_mib")},
        "size_mb": sum(f.stat().st_size for f in engine.folder.rglob("*") if f.is_file()) / 1e6,
    }


def gates(recipe: Recipe, measured: list[Measurement]) -> list[Verdict]:
    """The recipe's gates on the one of `measured` that ships."""
    chosen = next(m for m in measured if m[0]["chosen"])
    return judge(recipe.gates, explore_choice.found(recipe, chosen), chosen[0]["target"])


def ladder(made: Made) -> list[dict[str, Any]]:
    """Every parity rung, torch first; a rung that several graphs share stands once."""
    rungs: list[dict[str, Any]] = []
    for entry in made.values():
        path = entry.folder / "parity.json"
        for rung in read_json(path) if path.exists() else ():
            if rung not in rungs:
                rungs.append(rung)
    return rungs


def compression(made: Made) -> dict[str, Any]:
    """Step -> what it wrote of how it cut a network or chose the precision of its layers."""
    found = {(name, file): made[name].folder / file for name in made for file in COMPRESSION}
    return {name: read_json(path) for (name, _), path in found.items() if path.exists()}


def layers(rows: list[dict[str, Any]], made: Made) -> dict[str, Any]:
    """Engine that ships, and which of its plans -> the layers that its library made of the graph, and their kernels."""
    found = {}
    for step in dict.fromkeys(row["engine"] for row in rows if row["chosen"]):
        for file in sorted(made[step].folder.rglob("layers*.json")):
            part = file.relative_to(made[step].folder).with_suffix("")
            found[" ".join([step, *part.parts[:-1], *part.name.split("-")[1:]])] = read_json(file)
    return found


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


def exported(recipe: Recipe, folder: Path) -> list[str]:
    """Which exporter made the graph, and its opset, where they are not the recipe's and the default."""
    info = read_json(folder / "exporter.json")
    other = f"exported by {info['exporter']}: {'; '.join(info['refused'])}" if info["refused"] else ""
    return [note for note in (other, opset.told(recipe.export, recipe.targets)) if note]


def views(path: Path) -> list[str]:
    """Texts as the network received them; none of images, which are a picture."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def portable_graph(recipe: Recipe, facts: dict[str, Any], made: Made) -> Graph:
    """The fp32 graph of what every target ships, else of the network as trained: what goes along beside the engines."""
    shipped = {line_of(recipe, row["variant"]) for row in facts["variants"] if row["chosen"]}
    line = shipped.pop() if len(shipped) == 1 else ""
    step = next(name for name in (*fp32_graphs(recipe, line), *fp32_graphs(recipe, "")) if name in made)
    return Graph(made[step].folder, made[step].digest)


def line_of(recipe: Recipe, variant: str) -> str:
    """The line that `variant` is a precision of."""
    return variant.removesuffix(precision_of(recipe, variant)).removesuffix("-")


def precision_of(recipe: Recipe, variant: str) -> str:
    """The last word of `variant`, which may itself have a dash in its name, as dynamic-int8."""
    precisions = {FP32, *(step.module.variant(step.options) for step in recipe.passes)} - {""}
    longest: str = max((p for p in precisions if f"-{variant}".endswith(f"-{p}")), key=len)
    return longest


def fp32_graphs(recipe: Recipe, line: str) -> list[str]:
    """Steps that may have made the fp32 graph of a line, the last one first."""
    bases = [BASE + named(line, step.name) for step in reversed(recipe.passes)]
    return [f"optimize/{named(line, FP32)}", *bases, f"export/{line}" if line else "export"]


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
        golden = golden_of(row, made)
        most = 2 * golden["max_abs"] + golden["sway"] + 0.01
        tolerance = {"max_abs": min(1.0, most), "agreement": golden["agreement"] - 0.1}
        found.append((row["target"], engine, measured, tolerance))
    return found


def golden_of(row: dict[str, Any], made: Made) -> dict[str, Any]:
    """How far the engine of a row is from the golden answers of the fp32 graph of its line, the step `of`."""
    found: dict[str, Any] = read_json(made[row["evaluation"]].folder / "evaluation.json")["golden"]
    return found


def other_golden(facts: dict[str, Any], made: Made, base: Graph) -> dict[str, Path]:
    """Target -> golden file of what ships there, where it was not made of `base`."""
    chosen = {row["target"]: made[golden_of(row, made)["of"]] for row in facts["variants"] if row["chosen"]}
    return {target: entry.folder / "golden.npz" for target, entry in chosen.items() if entry.folder != base.folder}
