"""Images in folders named after their classes, directly or inside folders `train`, `val` and `test`.

A class is a folder; images may lie in folders below it. Hidden files are passed over, other files that are no images by
their suffix are left out and named. Several labels an image, or a number, stand in a CSV file in the folder instead
(`_listing.py`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tlcompile import options as base
from tlcompile.artifacts import Labels
from tlcompile.data import _listing
from tlcompile.data._columns import ImageColumns
from tlcompile.data._source import ALL, Example, Source, by_split, located, printable, read_file, some_of, split_named
from tlcompile.errors import DataError, Problem, nearest
from tlcompile.options import Field, NameList, RecipePath

KINDS = ("image",)
LABELS = ("class", "classes", "number")
PACKAGES = ("pillow",)
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")


class Options(base.Options):
    """`source = "folder"`"""

    path: RecipePath = Field(description="folder of class folders, or of train, val and test folders that hold them")
    labels: str = Field(
        "",
        description="a CSV file in the folder that lists images and labels; 'labels.csv' where folders can't say them",
    )
    label: str = Field("", description="column of the label in that file; inferred if not given")
    label_columns: NameList = Field((), description="several labels: columns of 0 and 1, each named after its class")
    label_separator: str = Field("|", min_length=1, description="what divides several labels in one column")


@dataclass(frozen=True)
class _Tree:
    """What lies below one folder of class folders. Files are named relative to the source's folder."""

    images: dict[str, list[str]]  # class -> its images, both sorted as text
    others: list[str]


def load(options: Options, kind: str, seed: int, labels: Labels = "class") -> Source:
    """List the files; they are read later."""
    import numpy as np

    root = located(options.path)
    if not root.is_dir():
        raise DataError(Problem(str(root), "is a file; source 'folder' reads a folder of class folders"))
    if options.labels or labels != "class":
        columns = ImageColumns(
            image=_listing.IMAGE,
            label=options.label,
            label_columns=options.label_columns,
            label_separator=options.label_separator,
        )
        return _listing.load(root, options.labels or _listing.USUAL, columns, SUFFIXES, labels)
    if options.label or options.label_columns:
        what = f"label = ... names a column of a CSV file; give labels = '{_listing.USUAL}', or leave it out"
        raise DataError(Problem(str(root), what))
    splits, notes = _splits(root)
    trees = {split: _tree(root, folder) for split, folder in splits.items()}
    if others := [name for tree in trees.values() for name in tree.others]:
        kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in others)
        sorts = ", ".join(f"{suffix}: {count}" for suffix, count in sorted(kinds.items()))
        why = "they are no images by their suffix or lie in no class folder"
        notes.append(f"left out, because {why} ({sorts}): {some_of(map(printable, others))}")
    _check(root, splits, trees)
    first = next(iter(trees.values()))
    classes = tuple(first.images)

    def read(split: str) -> Iterator[Example]:
        for label, name in enumerate(classes):
            for file in trees[split].images.get(name, ()):
                yield Example(printable(file), read_file(root / file), label)

    indices = {
        split: np.repeat(np.arange(len(classes), dtype=np.int32), [len(tree.images.get(name, ())) for name in classes])
        for split, tree in trees.items()
    }
    return Source(str(root), tuple(map(printable, classes)), indices, read, tuple(notes))


def _splits(root: Path) -> tuple[dict[str, Path], list[str]]:
    """(split -> its folder, notes). Without a folder `train`, all folders are classes: one may be called `valid`."""
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not any(split_named(f.name) == "train" for f in folders):
        return {ALL: root}, []
    named, notes = by_split((f.name for f in folders), str(root))
    return {split: root / name for split, name in named.items()}, notes


def _tree(root: Path, folder: Path) -> _Tree:
    """The class folders of `folder` with what lies below them."""
    images: dict[str, list[str]] = {}
    others: list[str] = []
    start = len(os.path.join(root, ""))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                others.append(entry.path[start:])
                continue
            images[entry.name] = []
            for file in sorted(_files(entry.path)):
                is_image = os.path.splitext(file)[1].lower() in SUFFIXES
                (images[entry.name] if is_image else others).append(file[start:])
    return _Tree(images, others)


def _files(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in files if not name.startswith("."))


def _check(root: Path, splits: dict[str, Path], trees: dict[str, _Tree]) -> None:
    """DataError if there are no images, or if a split has other classes than train."""
    first = next(iter(trees.values()))
    if not first.images:
        what = f"holds no class folders; expected {root.name}/CLASS/*.jpg or {root.name}/train/CLASS/*.jpg"
        raise DataError(Problem(str(splits.get("train", root)), what))
    problems = []
    for split, tree in list(trees.items())[1:]:
        surplus = [name for name in tree.images if name not in first.images]
        absent = [name for name in first.images if name not in tree.images]
        guesses = {name: nearest(name, absent) for name in surplus}
        problems += [
            Problem(str(splits[split]), f"class '{printable(name)}' is not among the classes of train", near)
            for name, near in guesses.items()
        ]
        problems += [
            Problem(str(splits[split]), f"has no folder of class '{printable(name)}', which train has")
            for name in absent
            if name not in guesses.values()
        ]
    if problems:
        raise DataError(*problems)
