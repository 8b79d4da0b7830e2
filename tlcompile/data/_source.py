"""What a source hands over, and what all sources share: paths, names of splits, the list of problems.

A source keeps labels in RAM and streams everything else, so that memory does not grow with the bytes of a data set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.errors import DataError, Problem, nearest
from tlcompile.options import PathText

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "val", "test")
ALL = "all"
_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled example: encoded image bytes or a text, and its label as in `Source.labels`."""

    id: str  # where it comes from, unique in its source: a relative path, `train.csv:12`
    data: bytes | str
    label: int | float | np.ndarray


@dataclass(frozen=True)
class Source:
    """What `load` of a source returns.

    `labels` has one array a split, in the order in which `read(split)` yields that split's examples: int32 [n] index of
    the class, int8 [n, K] 1 where a class is given, or float64 [n] a number. Splits are those of SPLITS that the source
    brings, or ALL alone where it brings none.
    """

    where: str  # names the source in messages: a path, a data set's name
    classes: tuple[str, ...]  # none where labels are numbers
    labels: dict[str, np.ndarray]
    read: Callable[[str], Iterator[Example]]
    notes: tuple[str, ...] = ()  # sentences about what was inferred or left out
    target: str = ""  # what the number is called


class Problems:
    """Problems found in passing. The first 20 are kept, the others counted: a wrong file is wrong in every row."""

    def __init__(self) -> None:
        self.shown: list[Problem] = []
        self.count = 0

    def add(self, where: str, what: str, near: str = "") -> None:
        self.count += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(Problem(where, what, near))

    def take(self, others: Problems) -> None:
        """Add those of `others`."""
        self.shown += others.shown[: _SHOWN - len(self.shown)]
        self.count += others.count

    def listed(self) -> list[Problem]:
        """All of them; where they are too many, the last entry says how many more there are."""
        more = self.count - len(self.shown)
        return [*self.shown, Problem("", f"... and {more} more of this kind")] if more else list(self.shown)

    def check(self) -> None:
        """DataError if there are any."""
        if self.count:
            raise DataError(*self.listed())


def located(path: str) -> Path:
    """Where an option of type `RecipePath` points; DataError with the nearest neighbour if nothing is there."""
    place = path.absolute if isinstance(path, PathText) else Path(path).absolute()
    if not place.exists():
        beside = [f.name for f in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(Problem(str(place), "no such file or folder", nearest(place.name, beside)))
    return place


def read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(Problem(printable(str(file)), f"can't be read: {error.strerror}")) from error


def split_named(name: str) -> str:
    """The split whose name `name` is, as folders are called (`valid` is `val`), or ''."""
    return _SPLIT_OF.get(name.lower(), "")


def splits_in(name: str) -> list[str]:
    """The splits that a file name mentions as a word: `train-00000-of-00001` is of train, `restrain` of none."""
    return sorted({_SPLIT_OF[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLIT_OF})


def by_split(names: Iterable[str], where: str) -> tuple[dict[str, str], list[str]]:
    """(split -> the one of `names` that is its name, notes on names that are of no split); DataError if two are."""
    named: dict[str, list[str]] = {}
    for name in names:
        named.setdefault(split_named(name), []).append(name)
    rest = named.pop("", [])
    if twice := [Problem(where, f"{' and '.join(n)} are both {s}; keep one") for s, n in named.items() if len(n) > 1]:
        raise DataError(*twice)
    return {split: named[split][0] for split in SPLITS if split in named}, [left_out(rest)] if rest else []


def left_out(names: Iterable[str]) -> str:
    """The note about files, folders or parts that belong to no split."""
    return f"left out, because their names say no split: {some_of(names)}"


def printable(name: str) -> str:
    """A file name as text that can be written as UTF-8, whatever bytes the file system holds."""
    return name.encode("utf-8", "replace").decode()


def some_of(names: Iterable[str], shown: int = 5) -> str:
    """`a, b, c and 4 more`"""
    every = list(names)
    more = f" and {len(every) - shown} more" if len(every) > shown else ""
    return ", ".join(every[:shown]) + more
