"""Write a bundle: a folder that answers on the device it was built for, with the evidence that it is good enough.

    manifest.json     what it is, what it was made of, SHA-256 of every file
    model.onnx        the portable fp32 graph
    engines/NAME/     compiled engines, the preferred one first in the manifest
    labels.json       class names in the order of the outputs
    signature.json    inputs and outputs
    tokenizer.json    text only
    golden.npz        feeds and answers for the self-test: those of model.onnx
    golden/NAME.npz   the same of an engine that was built of another network or of other views
    report.*          how it was made and measured, with `pictures/`
    README.md         model card
    predict.py        runs it; `requirements.txt` is all that it needs, `runtime/` is tlcompile's own part of it

There is no link among the files, and none is written after the manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tlcompile
from tlcompile.artifacts import Engine, Graph, Signature, write_json
from tlcompile.fingerprint import file_digest
from tlcompile.package import manifest as manifests
from tlcompile.package.card import card
from tlcompile.package.carry import carry
from tlcompile.package.verify import walk

_OF_ENGINE = ("backend", "variant", "options", "versions", "device", "why_not", "reproducible")
Shipped = tuple[str, Engine, dict[str, Any], dict[str, Any]]  # name, engine, what was measured, tolerance

_PREDICT = '''\
"""Run it from the command line: `python predict.py --help`. Needs what requirements.txt names, and no torch."""

import sys
from pathlib import Path

BUNDLE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # a bundle stays as its manifest describes it
sys.path.insert(0, str(BUNDLE / "runtime"))

from tlcompile.runtime.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(BUNDLE))
'''


def write(
    folder: Path,
    *,
    name: str,
    recipe_text: str,
    resolved: dict[str, Any],
    graph: Graph,
    engines: Sequence[Shipped],
    golden: Path,
    other_golden: Mapping[str, Path] = MappingProxyType({}),
    report: Path,
    facts: dict[str, Any],
) -> None:
    """Fill the empty `folder` with the bundle.

    `engines` stand in order of preference; `other_golden` are the golden files of those that `golden` is not of, by
    name. `report` is a folder with report.json, report.md and pictures. `facts` are those of the report; of them
    `variants`, `gates`, `explored`, `data`, `environment`, `metrics`, `lock` (distribution -> version; else
    `environment.versions`) and `provenance` go into the manifest and the card. All may be absent.
    BundleError where what was given makes no valid manifest.
    """
    _copy_files(folder, graph, golden, other_golden, report)
    _copy_engines(folder, graph.signature, [(name, engine) for name, engine, _, _ in engines])
    written = {
        "format": manifests.FORMAT,
        "tlcompile": tlcompile.__version__,
        "name": name,
        **_described(graph.signature),
        "chosen": engines[0][0] if engines else "",
        "engines": [_entry(*shipped, shipped[0] in other_golden) for shipped in engines],
        **_measured(facts),
        "recipe": recipe_text,
        "resolved": resolved,
    }
    (folder / "README.md").write_text(card(written, facts), encoding="utf-8")
    files = {path: Path(entry.path) for path, entry in walk(folder)}
    written["files"] = {path: file_digest(place) for path, place in files.items()}
    written["sizes"] = {path: place.stat().st_size for path, place in files.items()}
    manifest = manifests.parse(json.dumps(written), f"manifest of {name}")
    (folder / manifests.NAME).write_text(manifest.to_text(), encoding="utf-8")


def _copy_files(folder: Path, graph: Graph, golden: Path, other_golden: Mapping[str, Path], report: Path) -> None:
    """The portable graph, the examples of the self-tests and the report."""
    shutil.copyfile(graph.model, folder / "model.onnx")
    for file in ("signature.json", "tokenizer.json"):
        if (graph.folder / file).exists():
            shutil.copyfile(graph.folder / file, folder / file)
    write_json(folder / "labels.json", list(graph.signature.classes))
    shutil.copyfile(golden, folder / "golden.npz")
    for engine_name, examples in other_golden.items():
        place = folder / _golden(engine_name)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(examples, place)
    shutil.copytree(report, folder, dirs_exist_ok=True)


def _copy_engines(folder: Path, signature: Signature, engines: Sequence[tuple[str, Engine]]) -> None:
    """The engines and what runs them without the compiler."""
    for name, engine in engines:
        shutil.copytree(engine.folder, folder / _place(name))
    (folder / "predict.py").write_text(_PREDICT, encoding="utf-8")
    needed = _requirements(signature, [engine for _, engine in engines])
    (folder / "requirements.txt").write_text(needed, encoding="utf-8")
    carry(sorted({str(engine.info["backend"]) for _, engine in engines}), folder / "runtime")


def _place(engine_name: str) -> str:
    return f"engines/{manifests.inside(engine_name)}"


def _golden(engine_name: str) -> str:
    return f"golden/{manifests.inside(engine_name)}.npz"


def _described(signature: Signature) -> dict[str, Any]:
    return {
        "task": signature.task,
        "kind": signature.kind,
        "classes": list(signature.classes),
        "signature": signature.to_json(),
    }


def _entry(
    name: str, engine: Engine, measured: dict[str, Any], tolerance: dict[str, Any], own_golden: bool
) -> dict[str, Any]:
    info = engine.info
    return {
        "name": name,
        "target": measured.get("target") or info.get("target") or name,
        "folder": _place(name),
        "measured": measured,
        "tolerance": tolerance,
        **({"golden": _golden(name)} if own_golden else {}),
        "runs_here": bool(info["runs_here"]),
        **{key: info[key] for key in _OF_ENGINE if key in info},
    }


def _measured(facts: dict[str, Any]) -> dict[str, Any]:
    """The part of the report's facts that a manifest keeps."""
    data = facts.get("data", {})
    tested = data.get("sizes", {}).get("test") or sum(data.get("counts", {}).get("test", {}).values())
    environment = facts.get("environment", {})
    return {
        "variants": [_variant(v, tested) for v in facts.get("variants", ())],
        "gates": [_gate(g) for g in facts.get("gates", ())],
        "explored": facts.get("explored") or {},
        "metrics": facts.get("metrics", {}),
        "versions": facts.get("lock") or environment.get("versions", {}),
        "provenance": facts.get("provenance", {}),
    }


def _variant(fact: dict[str, Any], test_examples: int) -> dict[str, Any]:
    low, high = fact.get("accuracy_interval") or (None, None)
    latency = fact.get("latency", {}).get("batch_1", {})
    return {
        "engine": fact["engine"],
        "target": fact.get("target", fact["engine"]),
        "shipped": bool(fact.get("chosen")),
        "backend": fact.get("backend", ""),
        "precision": fact.get("variant", ""),
        "executed": bool(latency),
        "accuracy": fact.get("accuracy"),
        "accuracy_low": low,
        "accuracy_high": high,
        "n": fact.get("n", test_examples or None),
        "latency_p50_ms": latency.get("p50_ms"),
        "latency_p99_ms": latency.get("p99_ms"),
        "size_mb": fact.get("size_mb"),
        "why": fact.get("why", ""),
    }


def _gate(fact: dict[str, Any]) -> dict[str, Any]:
    verdict = "deferred" if fact.get("deferred") else "passed" if fact["passed"] else "failed"
    return {
        "name": fact["gate"],
        "target": fact.get("target", ""),
        "limit": fact["limit"],
        "value": fact.get("value"),
        "verdict": verdict,
        "why": fact.get("why", ""),
    }


def _requirements(signature: Signature, engines: Iterable[Engine]) -> str:
    """The distributions that the bundle needs, at the versions that it was built and measured with."""
    needed = ("numpy", "pydantic", "pillow" if signature.kind == "image" else "tokenizers")
    wanted = {package: version(package) for package in needed}
    for engine in engines:
        wanted |= engine.info["versions"]
    return "".join(f"{package}=={wanted[package]}\n" for package in wanted)
