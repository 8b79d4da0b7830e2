"""`tlcompile evaluate`: a bundle on labelled data that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlcompile import registry
from tlcompile.artifacts import Labels
from tlcompile.errors import DataError, Problem, nearest
from tlcompile.progress import track

LABEL_OPTIONS = ("label", "label_columns", "label_separator", "labels")


def source_of(path: Path, kind: str = "text") -> str:
    """The data source that reads examples of `kind` at `path`, by its suffix or by what a folder holds."""
    if not path.exists():
        siblings = [f.name for f in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(Problem(str(path), "no such file or folder", nearest(path.name, siblings)))
    kinds = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}
    names = [path.name] if path.is_file() else sorted(f.name for f in path.iterdir() if f.is_file())
    for name in names:
        source = kinds.get(Path(name).suffix.lower(), "folder")
        if source != "folder" and (path.is_file() or kind in registry.load("data", source).KINDS):
            return source
    return "folder"


def evaluate(bundle: Path, data: Path, target: str) -> dict[str, Any]:
    """Figures of `tlcompile.evaluate.figures.summarize` for every labelled example of `data`.

    Of data that is split the test part counts, else all of it. Several labels and numbers stand in the columns that the
    bundle's recipe names. DataError where `data` has classes the bundle does not know.
    """
    from tlcompile.data._prepare import load as read
    from tlcompile.evaluate.figures import summarize
    from tlcompile.runtime import load

    with load(bundle, target) as model:
        labels = model.signature.labels
        module = registry.load("data", source_of(data, model.kind))
        asked = {"path": str(data.absolute())}
        if labels != "class":
            taken = model.manifest.resolved.get("data", {})
            asked |= {k: taken[k] for k in LABEL_OPTIONS if k in module.Options.model_fields and taken.get(k)}
        options = module.Options.model_validate(asked, context={"base": Path()})
        source = read(module, options, model.kind, 0, labels, f"the bundle '{model.manifest.name}'")
        split = next(s for s in ("test", "all", "val", "train") if len(source.labels.get(s, ())))
        truth = _truth(source.labels[split], source.classes, model.classes, labels, str(data))
        found = model.answers((e.data for e in source.read(split)), batch_size=32)
        answers = np.array(list(track(found, "evaluate", len(truth))))
    figures = summarize(answers, truth, model.classes, labels)
    metric = registry.load("tasks", model.manifest.task).METRIC
    return {"split": split, "engine": model.engine, "metric": metric, **figures}


def _truth(found: np.ndarray, theirs: Sequence[str], ours: Sequence[str], labels: Labels, where: str) -> np.ndarray:
    """Labels by the classes `theirs` as labels by the classes `ours`."""
    unknown = [name for name in theirs if name not in ours]
    if unknown:
        what = "the bundle knows no class"
        raise DataError(*(Problem(where, f"{what} '{name}'", nearest(name, ours)) for name in unknown))
    if labels == "number":
        return found
    places = np.array([ours.index(name) for name in theirs], np.int64)
    if labels == "class":
        return np.asarray(places[found])
    flags = np.zeros((len(found), len(ours)), np.int8)
    flags[:, places] = found
    return flags
