"""Unlabelled examples that a network is sure of, as training examples (D.-H. Lee, "Pseudo-Label", ICML workshop 2013).

    Unlabelled   what lies at a path: images of a folder, texts of a file
    content      what tells examples apart: pixels or words, so that a test item is found under any name and encoding
    choose       which of them join, by threshold and by rank in each class
    write        a Splits folder whose training split has them as well

An example that is also in the validation or test split is left out: a network must not learn what it is judged on. One
that is in the training split already has a label.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlcompile.data._csv import LONGEST_FIELD
from tlcompile.data._source import Example
from tlcompile.data._split import Split
from tlcompile.data._write import SplitWriter
from tlcompile.data.folder import SUFFIXES
from tlcompile.errors import DataError, Problem
from tlcompile.runtime.images import UnreadableImage, decode

TEXT_FILES = (".txt", ".csv", ".jsonl")
COLUMN = "text"
CERTAIN = 20.0
"""The logit of a class that is known: softmax makes 1 of it, less than 1e-6 apart."""


@dataclass(frozen=True)
class Unlabelled(Sequence[Any]):
    """`items` are files of images, or texts; `ids` say where each comes from."""

    kind: str
    ids: tuple[str, ...]
    items: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.items)

    def raw(self, index: int) -> bytes | str:
        item = self.items[index]
        return item.read_bytes() if isinstance(item, Path) else str(item)

    def __getitem__(self, index: Any) -> Any:
        """The image decoded, or the text."""
        data = self.raw(index)
        return data if isinstance(data, str) else decode(data)


def read(place: Path, kind: str) -> Unlabelled:
    """What lies at `place`. DataError where that is nothing of `kind`."""
    if kind == "image":
        found = sorted(f for f in place.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        names = tuple(f.relative_to(place).as_posix() for f in found)
        unlabelled = Unlabelled(kind, names, tuple(found))
    elif place.suffix.lower() not in TEXT_FILES:
        raise DataError(Problem(str(place), f"expected a file that ends in {', '.join(TEXT_FILES)}"))
    else:
        texts = tuple(text for text in _texts(place) if text.strip())
        unlabelled = Unlabelled(kind, tuple(f"{place.name}:{i + 1}" for i in range(len(texts))), texts)
    if not len(unlabelled):
        raise DataError(Problem(str(place), f"holds no {kind}s"))
    return unlabelled


def _texts(place: Path) -> Iterator[str]:
    """A text a line, or what stands in the column or key `text`."""
    with place.open(encoding="utf-8", newline="") as file:
        try:
            if place.suffix.lower() == ".txt":
                yield from (line.rstrip("\r\n") for line in file)
                return
            csv.field_size_limit(LONGEST_FIELD)
            lines = csv.DictReader(file) if place.suffix.lower() == ".csv" else filter(str.strip, file)
            rows: Any = lines if isinstance(lines, csv.DictReader) else map(json.loads, lines)
            yield from (str(row[COLUMN]) for row in rows)
        except (KeyError, TypeError) as error:
            raise DataError(Problem(str(place), f"a row has no '{COLUMN}'")) from error
        except (ValueError, csv.Error) as error:
            raise DataError(Problem(str(place), f"can't be read: {error}")) from error


def content(example: Any) -> str:
    """SHA-256 of an image's size and pixels, or of a text's words in lower case."""
    if isinstance(example, str):
        return hashlib.sha256(" ".join(example.casefold().split()).encode()).hexdigest()
    return hashlib.sha256(str(example.shape).encode() + np.ascontiguousarray(example).tobytes()).hexdigest()


def usable(unlabelled: Unlabelled, splits: Path) -> tuple[list[int], dict[str, int]]:
    """(indices that may join, how many were left out for which reason). DataError where none is left."""
    held = {content(e): name for name in ("train", "val", "test") for e in Split(splits, name)}
    kept, left = [], dict.fromkeys(("in test", "in val", "in train", "twice", "unreadable"), 0)
    seen: set[str] = set()
    for index in range(len(unlabelled)):
        try:
            mark = content(unlabelled[index])
        except UnreadableImage:
            left["unreadable"] += 1
            continue
        if mark in held:
            left[f"in {held[mark]}"] += 1
        elif mark in seen:
            left["twice"] += 1
        else:
            kept.append(index)
            seen.add(mark)
    if not kept:
        reasons = ", ".join(f"{count} {why}" for why, count in left.items() if count)
        raise DataError(Problem("pseudo_labels.path", f"none of its {len(unlabelled)} examples can join: {reasons}"))
    return kept, {why: count for why, count in left.items() if count}


def choose(probabilities: np.ndarray, threshold: float, top_k: int | None) -> np.ndarray:
    """Indices, rising, of the rows [N, K] that join: the largest value is at least `threshold`, and of each class at
    most the `top_k` largest, the first of equals."""
    label, sure = probabilities.argmax(-1), probabilities.max(-1)
    chosen = []
    for k in range(probabilities.shape[1]):
        mine = np.flatnonzero((label == k) & (sure >= threshold))
        chosen.append(mine[np.argsort(-sure[mine], kind="stable")][:top_k])
    return np.sort(np.concatenate(chosen))


def write(splits: Path, unlabelled: Unlabelled, indices: Sequence[int], labels: np.ndarray, folder: Path) -> None:
    """`train.arrow` with `unlabelled[indices]` behind the training examples; the other files as they are."""
    for name in ("val.arrow", "test.arrow", "data.json"):
        try:
            os.link(splits / name, folder / name)
        except OSError:  # another file system
            shutil.copyfile(splits / name, folder / name)
    train = Split(splits, "train")
    with SplitWriter(folder / "train.arrow", train.kind) as writer:
        for i, name in enumerate(train.ids):
            height, width = train.shapes[i] if train.kind == "image" else (0, 0)
            writer.add(Example(name, train.raw(i), int(train.labels[i])), int(height), int(width))
        for index, label in zip(indices, labels, strict=True):
            height, width = unlabelled[index].shape[:2] if train.kind == "image" else (0, 0)
            name = f"unlabelled/{unlabelled.ids[index]}"
            writer.add(Example(name, unlabelled.raw(index), int(label)), int(height), int(width))


def soft(labels: np.ndarray, classes: int, logits: np.ndarray) -> np.ndarray:
    """What is learnt of all examples as a teacher's answers: known labels [n] as certain, then `logits` [m, K]."""
    known = CERTAIN * np.eye(classes, dtype=np.float32)[labels]
    return np.concatenate([known, np.asarray(logits, np.float32)])
