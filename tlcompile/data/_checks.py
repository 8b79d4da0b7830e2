"""Is there enough to learn from: examples in every split, of every class, targets that differ, nothing broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tlcompile.artifacts import Labels
from tlcompile.data._audit import Audit
from tlcompile.data._source import ALL, SPLITS, Problems, Source, some_of
from tlcompile.errors import DataError, Problem

Plan = Mapping[str, Mapping[int, float]]  # split of the source -> target split (its index in SPLITS) -> share


def counts(labels: np.ndarray, classes: Sequence[str], kind: Labels) -> dict[str, int]:
    """Examples of each class; nothing of numbers."""
    if kind == "number":
        return {}
    found = np.bincount(labels, minlength=len(classes)) if kind == "class" else labels.sum(0, dtype=np.int64)
    return {name: int(count) for name, count in zip(classes, found, strict=True)}


def check_splits(source: Source) -> None:
    """Whether there is enough to look at the examples at all."""
    total = sum(len(labels) for labels in source.labels.values())
    if not total:
        raise DataError(Problem(source.where, "no examples were found"))
    if ALL not in source.labels and not len(source.labels.get("train", ())):
        found = some_of(split for split, labels in source.labels.items() if len(labels))
        raise DataError(Problem(source.where, f"has no training examples, only {found}"))


def check_examples(source: Source, audits: Mapping[str, Audit], plan: Plan, on_broken: str, labels: Labels) -> None:
    """DataError with every class and split that is too small and, unless they are skipped, every broken example."""
    stop = on_broken == "error"
    good = {split: a.good | stop for split, a in audits.items()}
    problems = [*(_target_problems if labels == "number" else _class_problems)(source, good, plan, labels)]
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


def _class_problems(source: Source, good: Mapping[str, np.ndarray], plan: Plan, labels: Labels) -> list[Problem]:
    """Classes with too few good examples in the part of the source that is cut into splits; one class only."""
    split, shares = next(iter(plan.items()))
    found, skipped = (
        counts(source.labels[split][kept], source.classes, labels) for kept in (good[split], ~good[split])
    )
    there = [name for name, count in found.items() if count]
    if len(there) < 2 and labels == "class":
        only = [f", '{name}'" for name in there]
        return [Problem(source.where, f"one class only{''.join(only)}; at least 2 are needed")]
    if not there:
        return [Problem(source.where, "no example has a label")]
    small = Problems()
    for name, count in found.items():
        if count < len(shares):
            small.add(source.where, _too_small(name, count, skipped[name], split, shares))
    return small.listed()


def _target_problems(source: Source, good: Mapping[str, np.ndarray], plan: Plan, labels: Labels) -> list[Problem]:
    """Splits of the source that are too small, or whose target is the same number everywhere."""
    problems = []
    for split, shares in plan.items():
        targets = source.labels[split][good[split]]
        where = "" if split == ALL else f" in {split}"
        if len(targets) < 2 * len(shares):
            what = f"{len(targets)} examples{where}; at least {2 * len(shares)} are needed"
            problems.append(Problem(source.where, what))
        elif targets.min() == targets.max():
            what = f"'{source.target}' is {targets[0]:g} in all {len(targets)} examples{where}; nothing can be learnt"
            problems.append(Problem(source.where, what))
    return problems


def _too_small(name: str, count: int, skipped: int, split: str, shares: Iterable[int]) -> str:
    targets = [SPLITS[index] for index in shares]
    unit = "example" if count == 1 else "examples"
    where = "" if split == ALL else f" in {split}"
    broken = f" ({skipped} broken ones were skipped)" if skipped else ""
    each = f"to have one each in {', '.join(targets)}" if len(targets) > 1 else "to learn from"
    verb = "is" if len(targets) == 1 else "are"
    return f"class '{name}' has {count or 'no'} {unit}{where}{broken}; at least {len(targets)} {verb} needed {each}"
