"""`tlcompile evaluate`: a bundle on labelled data that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlcompile import registry
from tlcompile.errors import DataError, Problem, nearest
from tlcompile.progress import track


def source_of(path: Path) -> str:
    """The data source that reads `path`, by its suffix or by what a folder holds."""
    if not path.exists():
        siblings = [f.name for f in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(Problem(str(path), "no such file or folder", nearest(path.name, siblings)))
    kinds = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}
    names = [path.name] if path.is_file() else sorted(f.name for f in path.iterdir() if f.is_file())
    for name in names:
        if kind := kinds.get(Path(name).suffix.lower()):
            return kind
    return "folder"


def evaluate(bundle: Path, data: Path, target: str) -> dict[str, Any]:
    """Figures of `tlcompile.evaluate.accuracy.summarize` for every labelled example of `data`.

    Of data that is split the test part counts, else all of it. DataError where it has classes the bundle does not know.
    """
    from tlcompile.evaluate.accuracy import summarize
    from tlcompile.runtime import load

    with load(bundle, target) as model:
        name = source_of(data)
        module = registry.load("data", name)
        options = module.Options.model_validate({"path": str(data.absolute())}, context={"base": Path()})
        source = module.load(options, model.kind, 0)
        unknown = [c for c in source.classes if c not in model.classes]
        if unknown:
            raise DataError(
                *(Problem(str(data), f"the bundle knows no class '{c}'", nearest(c, model.classes)) for c in unknown)
            )
        split = next(s for s in ("test", "all", "val", "train") if len(source.labels.get(s, ())))
        labels = np.array([model.classes.index(c) for c in source.classes])[source.labels[split]]
        found = model.stream((e.data for e in source.read(split)), batch_size=32, top=len(model.classes))
        rows = [[p.probabilities[c] for c in model.classes] for p in track(found, "evaluate", len(labels))]
    return {"split": split, "engine": model.engine, **summarize(np.array(rows), labels, model.classes)}
