"""A tiny real bundle: the toy graph, compiled by the real backends, packaged with facts like those of a build."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import toy_graphs

from tlcompile import compile, parity, registry
from tlcompile.artifacts import Engine, Graph, read_json, write_json
from tlcompile.fingerprint import tree_digest
from tlcompile.package.bundle import write
from tlcompile.report.write import write as write_report
from tlcompile.runtime import golden

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed

TOLERANCE = {"max_abs": 1e-3, "agreement": 1.0}
RECIPE = 'name = "toy"\n'


def facts(engines: Sequence[str] = ("onnxruntime",)) -> dict[str, Any]:
    return {
        "name": "toy",
        "task": "image-classification",
        "classes": list(toy_graphs.CLASSES),
        "variants": [
            {
                "engine": f"compile/{name}/fp32",
                "target": name,
                "variant": "fp32",
                "backend": name,
                "accuracy": 0.9,
                "accuracy_interval": [0.8, 0.95],
                "latency": {"batch_1": {"p50_ms": 1.5, "p90_ms": 1.6, "p99_ms": 2.0, "n": 200}},
                "size_mb": 0.01,
                "chosen": True,
                "why": "the fastest",
            }
            for name in engines
        ],
        "gates": [
            {"target": engines[0], "gate": "min_accuracy", "limit": 0.8, "value": 0.9, "passed": True, "why": ""}
        ],
        "data": {"counts": {"train": {"ant": 70}, "test": {"ant": 10, "bee": 10}}},
        "environment": {"cpu": "a CPU", "versions": {"numpy": "2.0"}},
        "provenance": {"data": "0" * 64, "seed": 17},
        "history": [{"epoch": 1, "train_loss": 0.5, "val_loss": 0.6}],
    }


def golden_of(graph: Graph, feeds: list[Feed], path: Path) -> Path:
    golden.save(path, feeds, parity.run_graph(graph.model, feeds))
    return path


def engine_of(backend: str, graph: Graph, folder: Path, **options: Any) -> Engine:
    folder.mkdir(parents=True)
    compile.build(backend, registry.load("compile", backend).Options(**options), graph, "fp32", folder)
    return Engine(folder, tree_digest(folder))


def build(folder: Path, work: Path, backends: Sequence[str] = ("onnxruntime",), **options: Any) -> Path:
    """An image bundle in `folder`; `work` takes what it is made of; `options` are those of every backend."""
    graph = toy_graphs.image_graph(work / "graph")
    feeds = [toy_graphs.images(2), toy_graphs.images(1, 31, 17)]
    return package(folder, work, graph, golden_of(graph, feeds, work / "golden.npz"), backends, **options)


def package(folder: Path, work: Path, graph: Graph, stored: Path, backends: Sequence[str], **options: Any) -> Path:
    (work / "report").mkdir()
    write_report(facts(backends), work / "report")
    folder.mkdir(parents=True)
    write(
        folder,
        name="toy",
        recipe_text=RECIPE,
        resolved={"name": "toy", "model": {"library": "timm", "name": "toynet"}, "data": {"source": "folder"}},
        graph=graph,
        engines=[(b, engine_of(b, graph, work / b, **options), {"accuracy": 0.9}, TOLERANCE) for b in backends],
        golden=stored,
        report=work / "report",
        facts=facts(backends),
    )
    return folder


def rewrite_manifest(bundle: Path, **changes: Any) -> None:
    """Set keys of the manifest, as a forger or another version would."""
    write_json(bundle / "manifest.json", {**read_json(bundle / "manifest.json"), **changes})


def text_graph(work: Path) -> Graph:
    """The toy text graph with a real tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "good", "bad", "film", "a", "very"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    toy_graphs.text_graph(work)
    tokenizer.save(str(work / "tokenizer.json"))
    return Graph(work, tree_digest(work))


def read_manifest(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return found
