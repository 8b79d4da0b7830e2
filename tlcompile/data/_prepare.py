"""The data stage: a source -> `train.arrow`, `val.arrow`, `test.arrow`, `data.json`.

Three readings of the source, each a stream: its labels (the source's `load`), every example checked, every example
written. So a split is drawn from the good examples alone, and nothing but labels and sizes is held in RAM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

import numpy as np

from tlcompile.artifacts import write_json
from tlcompile.data._assign import assign, calibration
from tlcompile.data._audit import Audit, aligned, audit
from tlcompile.data._source import ALL, SPLITS, Problems, Source, some_of
from tlcompile.data._write import SplitWriter
from tlcompile.errors import DataError, Problem, one_of
from tlcompile.options import Options
from tlcompile.progress import track

_NOWHERE = 255


class Shares(Protocol):
    @property
    def train(self) -> float: ...
    @property
    def val(self) -> float: ...
    @property
    def test(self) -> float: ...


class DataTable(Protocol):
    """What is asked of the recipe's `[data]`."""

    @property
    def task(self) -> str: ...
    @property
    def split(self) -> Shares: ...
    @property
    def calibration(self) -> int: ...
    @property
    def on_broken(self) -> Literal["error", "skip"]: ...


def prepare(
    source_module: ModuleType,
    options: Options,
    table: DataTable,
    kind: Literal["image", "text"],
    seed: int,
    folder: Path,
) -> None:
    """Fill `folder` with the examples that `source_module` brings; DataError lists all that is wrong with them.

    The same data, options and seed give the same bytes.
    """
    name = source_module.__name__.rpartition(".")[2]
    if kind not in source_module.KINDS:
        brought = one_of(source_module.KINDS)
        raise DataError(f"source '{name}' brings {brought}; task '{table.task}' learns from '{kind}'")
    source: Source = source_module.load(options, kind, seed)
    _check_splits(source)
    audits = {split: audit(source, split) for split in source.labels}
    plan = _plan(source, table.split)
    _check_examples(source, audits, plan, table.on_broken)
    targets = {
        split: _targets(source.labels[split], audits[split].good, shares, len(source.classes), seed)
        for split, shares in plan.items()
    }
    written = _write(source, audits, targets, kind, folder)
    write_json(
        folder / "data.json",
        {
            "kind": kind,
            "task": table.task,
            "source": name,
            "classes": list(source.classes),
            "counts": {split: _counts(labels, source.classes) for split, labels in written.items()},
            "split_by": _split_by(plan),
            "calibration": calibration(written["train"], table.calibration, len(source.classes), seed),
            "notes": [*source.notes, *_absent(written, source.classes)],
            "skipped": [{"id": i, "why": why} for a in audits.values() for i, why in a.broken],
        },
    )


def _check_splits(source: Source) -> None:
    """Whether there is enough to look at the examples at all."""
    total = sum(len(labels) for labels in source.labels.values())
    if not total:
        raise DataError(Problem(source.where, "no examples were found"))
    if ALL not in source.labels and not len(source.labels.get("train", ())):
        found = some_of(split for split, labels in source.labels.items() if len(labels))
        raise DataError(Problem(source.where, f"has no training examples, only {found}"))


def _plan(source: Source, shares: Shares) -> dict[str, dict[int, float]]:
    """For each split of the source: target split (its index in SPLITS) -> share; first the one that is cut."""
    every = {index: float(getattr(shares, name)) for index, name in enumerate(SPLITS)}
    brought = {index for index, name in enumerate(SPLITS) if name in source.labels}
    plan = {SPLITS[index]: {index: 1.0} for index in sorted(brought - {0})}
    rest = {index: share for index, share in every.items() if index not in brought - {0}}
    return {ALL if ALL in source.labels else "train": rest, **plan}


def _check_examples(
    source: Source, audits: Mapping[str, Audit], plan: Mapping[str, Mapping[int, float]], on_broken: str
) -> None:
    """DataError with every class and split that is too small and, unless they are skipped, every broken example."""
    stop = on_broken == "error"
    good = {split: a.good | stop for split, a in audits.items()}
    problems = [*_class_problems(source, good, plan)]
    given = [split for split, shares in plan.items() if len(shares) == 1]
    problems += [Problem(source.where, f"{split} has no examples") for split in given if not good[split].any()]
    broken = Problems()
    for audited in audits.values() if stop else ():
        for where, why in audited.broken:
            broken.add(where, why)
    problems += broken.listed()
    if broken.count:
        total = sum(len(labels) for labels in source.labels.values())
        advice = 'mend or remove them, or leave them out with on_broken = "skip" in [data]'
        problems.append(Problem(source.where, f"{broken.count} of {total} examples are broken; {advice}"))
    if problems:
        raise DataError(*problems)


def _class_problems(
    source: Source, good: Mapping[str, np.ndarray], plan: Mapping[str, Mapping[int, float]]
) -> list[Problem]:
    """Classes with too few good examples in the part of the source that is cut into splits; one class only."""
    split, shares = next(iter(plan.items()))
    counts, skipped = (
        np.bincount(source.labels[split][kept], minlength=len(source.classes)) for kept in (good[split], ~good[split])
    )
    if np.count_nonzero(counts) < 2:
        only = [f", '{name}'" for name, count in zip(source.classes, counts, strict=True) if count]
        return [Problem(source.where, f"one class only{''.join(only)}; at least 2 are needed")]
    small = Problems()
    for name, count, lost in zip(source.classes, counts, skipped, strict=True):
        if count < len(shares):
            small.add(source.where, _too_small(name, int(count), int(lost), split, shares))
    return small.listed()


def _too_small(name: str, count: int, skipped: int, split: str, shares: Iterable[int]) -> str:
    targets = [SPLITS[index] for index in shares]
    unit = "example" if count == 1 else "examples"
    where = "" if split == ALL else f" in {split}"
    broken = f" ({skipped} broken ones were skipped)" if skipped else ""
    each = f"to have one each in {', '.join(targets)}" if len(targets) > 1 else "to learn from"
    verb = "is" if len(targets) == 1 else "are"
    return f"class '{name}' has {count or 'no'} {unit}{where}{broken}; at least {len(targets)} {verb} needed {each}"


def _targets(labels: np.ndarray, good: np.ndarray, shares: dict[int, float], classes: int, seed: int) -> np.ndarray:
    """Index in SPLITS of each example, uint8 [n]; _NOWHERE for the broken ones."""
    targets = np.full(len(labels), _NOWHERE, dtype=np.uint8)
    if len(shares) == 1:
        targets[good] = next(iter(shares))
    else:
        targets[good] = assign(labels[good], shares, classes, seed)
    return targets


def _write(
    source: Source, audits: Mapping[str, Audit], targets: Mapping[str, np.ndarray], kind: str, folder: Path
) -> dict[str, np.ndarray]:
    """Write the three files; the labels of each as written."""
    written: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    with ExitStack() as stack:
        writers = [stack.enter_context(SplitWriter(folder / f"{name}.arrow", kind)) for name in SPLITS]
        for split, where in targets.items():
            for index, name in enumerate(SPLITS):
                written[name].append(source.labels[split][where == index])
            examples = track(aligned(source, split), f"data: write {split}", len(where))
            for example, target, size in zip(examples, where, audits[split].sizes, strict=True):
                if target != _NOWHERE:
                    writers[target].add(example, int(size[0]), int(size[1]))
    return {name: np.concatenate(parts) for name, parts in written.items()}


def _counts(labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(classes))
    return {name: int(count) for name, count in zip(classes, counts, strict=True)}


def _split_by(plan: Mapping[str, Mapping[int, float]]) -> dict[str, str]:
    """How each split came about."""
    by = {index: "source" if len(shares) == 1 else "seeded share" for shares in plan.values() for index in shares}
    return {name: by[index] for index, name in enumerate(SPLITS)}


def _absent(written: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> list[str]:
    """A note for each split of the source in which classes have no example: their accuracy can't be known."""
    notes = []
    for split, labels in written.items():
        absent = [name for name, count in _counts(labels, classes).items() if not count]
        if absent:
            notes.append(f"{split} has no example of {some_of(absent)}")
    return notes
