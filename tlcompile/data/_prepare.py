"""The data stage: a source -> `train.arrow`, `val.arrow`, `test.arrow`, `data.json`.

Three readings of the source, each a stream: its labels (the source's `load`), every example checked, every example
written. So a split is drawn from the good examples alone, and nothing but labels and sizes is held in RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

import numpy as np

from tlcompile.artifacts import Labels, Target, write_json
from tlcompile.data._assign import assign, calibration, strata
from tlcompile.data._audit import Audit, aligned, audit
from tlcompile.data._checks import check_examples, check_splits, counts
from tlcompile.data._source import ALL, SPLITS, Source, some_of
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
    labels: Labels = "class",
) -> None:
    """Fill `folder` with the examples that `source_module` brings; DataError lists all that is wrong with them.

    The same data, options and seed give the same bytes.
    """
    name = source_module.__name__.rpartition(".")[2]
    source = load(source_module, options, kind, seed, labels, f"task '{table.task}'")
    check_splits(source)
    audits = {split: audit(source, split) for split in source.labels}
    plan = _plan(source, table.split)
    check_examples(source, audits, plan, table.on_broken, labels)
    where = {
        split: _targets(source.labels[split], audits[split].good, shares, labels, seed)
        for split, shares in plan.items()
    }
    written = {
        split: np.concatenate([source.labels[part][where[part] == index] for part in where])
        for index, split in enumerate(SPLITS)
    }
    target, chosen = _target(source, written, labels), _calibration(written["train"], table.calibration, labels, seed)
    width = len(source.classes) if labels == "classes" else 0
    _write(source, audits, where, [partial(SplitWriter, folder / f"{s}.arrow", kind, width, target) for s in SPLITS])
    write_json(
        folder / "data.json",
        {
            "kind": kind,
            "task": table.task,
            "labels": labels,
            "source": name,
            "classes": list(source.classes),
            **({"target": asdict(target)} if target else {}),
            "sizes": {split: len(found) for split, found in written.items()},
            "counts": {split: counts(found, source.classes, labels) for split, found in written.items()},
            "split_by": _split_by(plan),
            "calibration": chosen,
            "notes": _notes(source, written, chosen, labels),
            "skipped": [{"id": i, "why": why} for a in audits.values() for i, why in a.broken],
        },
    )


def load(source_module: ModuleType, options: Options, kind: str, seed: int, labels: Labels, asker: str) -> Source:
    """What the source brings; DataError where it brings other examples or labels than `asker` learns from."""
    name = source_module.__name__.rpartition(".")[2]
    if kind not in source_module.KINDS:
        raise DataError(f"source '{name}' brings {one_of(source_module.KINDS)}; {asker} learns from '{kind}'")
    known = getattr(source_module, "LABELS", ("class",))
    if labels not in known:
        words = {"class": "one class", "classes": "several classes", "number": "a number"}
        brought = one_of(words[known_one] for known_one in known)
        raise DataError(f"source '{name}' brings {brought} for each example; {asker} learns '{words[labels]}'")
    source: Source = source_module.load(options, kind, seed, *([] if labels == "class" else [labels]))
    return source


def _target(source: Source, written: Mapping[str, np.ndarray], labels: Labels) -> Target | None:
    """The number's name, mean and standard deviation over train; DataError where it is constant in a split."""
    if labels != "number":
        return None
    problems = [
        Problem(source.where, f"'{source.target}' is the same number in all {len(found)} examples of {split}")
        for split, found in written.items()
        if found.min() == found.max()
    ]
    if problems:
        raise DataError(*problems)
    return Target(source.target, float(written["train"].mean()), float(written["train"].std()))


def _calibration(labels: np.ndarray, size: int, kind: Labels, seed: int) -> list[int]:
    groups, count = strata(labels, kind, 1)
    return calibration(groups, size, count, seed)


def _plan(source: Source, shares: Shares) -> dict[str, dict[int, float]]:
    """For each split of the source: target split (its index in SPLITS) -> share; first the one that is cut."""
    every = {index: float(getattr(shares, name)) for index, name in enumerate(SPLITS)}
    brought = {index for index, name in enumerate(SPLITS) if name in source.labels}
    plan = {SPLITS[index]: {index: 1.0} for index in sorted(brought - {0})}
    rest = {index: share for index, share in every.items() if index not in brought - {0}}
    return {ALL if ALL in source.labels else "train": rest, **plan}


def _targets(labels: np.ndarray, good: np.ndarray, shares: dict[int, float], kind: Labels, seed: int) -> np.ndarray:
    """Index in SPLITS of each example, uint8 [n]; _NOWHERE for the broken ones."""
    targets = np.full(len(labels), _NOWHERE, dtype=np.uint8)
    if len(shares) == 1:
        targets[good] = next(iter(shares))
    else:
        groups, count = strata(labels[good], kind, len(shares))
        targets[good] = assign(groups, shares, count, seed)
    return targets


def _write(
    source: Source,
    audits: Mapping[str, Audit],
    where: Mapping[str, np.ndarray],
    opened: Sequence[Callable[[], SplitWriter]],
) -> None:
    """Each good example to the writer of its split, in the order of SPLITS."""
    with ExitStack() as stack:
        writers = [stack.enter_context(open_writer()) for open_writer in opened]
        for split, indices in where.items():
            examples = track(aligned(source, split), f"data: write {split}", len(indices))
            for example, index, size in zip(examples, indices, audits[split].sizes, strict=True):
                if index != _NOWHERE:
                    writers[index].add(example, int(size[0]), int(size[1]))


def _split_by(plan: Mapping[str, Mapping[int, float]]) -> dict[str, str]:
    """How each split came about."""
    by = {index: "source" if len(shares) == 1 else "seeded share" for shares in plan.values() for index in shares}
    return {name: by[index] for index, name in enumerate(SPLITS)}


def _notes(source: Source, written: Mapping[str, np.ndarray], chosen: list[int], labels: Labels) -> list[str]:
    unseen = _uncalibrated(written["train"], chosen, source.classes, labels)
    return [*source.notes, *_absent(written, source.classes, labels), *unseen]


def _absent(written: Mapping[str, np.ndarray], classes: tuple[str, ...], kind: Labels) -> list[str]:
    """A note for each split of the source in which classes have no example: their accuracy can't be known."""
    notes = []
    for split, labels in written.items():
        absent = [name for name, count in counts(labels, classes, kind).items() if not count]
        if absent:
            notes.append(f"{split} has no example of {some_of(absent)}")
    return notes


def _uncalibrated(train: np.ndarray, chosen: list[int], classes: Sequence[str], kind: Labels) -> list[str]:
    """A note on the classes that no calibration example has: int8 does not look at what they bring."""
    missing = np.setdiff1d(train, train[chosen]).tolist() if kind == "class" else []
    if not missing:
        return []
    return [f"none of the {len(chosen)} calibration examples is of {some_of([classes[i] for i in missing])}"]
