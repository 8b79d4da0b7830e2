"""Images whose labels stand in a CSV file beside them: one row an image, with its path relative to that file's folder.

The path's column is called file, file_name, filename, path or image, else it is the first one. An image that lies in a
folder `train`, `val` or `test` is of that split; where none does, the source has no splits of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tlcompile.artifacts import Labels
from tlcompile.data import _tabular
from tlcompile.data._columns import ColumnKind, ImageColumns
from tlcompile.data._csv import CsvTable, open_table
from tlcompile.data._source import (
    ALL,
    SPLITS,
    Problems,
    Source,
    left_out,
    located,
    printable,
    read_file,
    some_of,
    split_named,
)
from tlcompile.errors import DataError, Problem, nearest

USUAL = "labels.csv"
IMAGE = "image bytes"  # the column that this source adds
_NAMES = ("file", "file_name", "filename", "path", "image")


@dataclass(frozen=True)
class _Listed:
    """A `_tabular.Table` over the rows of one split."""

    table: CsvTable
    root: Path
    split: str
    file: str  # column of the path

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        others: dict[str, ColumnKind] = {name: kind for name, kind in self.table.columns.items() if name != self.file}
        return {IMAGE: "image", **others}

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    def rows(self, columns: Sequence[str], problems: Problems) -> Iterator[tuple[int, tuple[Any, ...]]]:
        wanted = [self.file if column == IMAGE else column for column in columns]
        for line, (path, *values) in self.table.rows((self.file, *wanted), problems):
            if self.split in (ALL, _split_of(path)):
                image = read_file(self.root / path) if IMAGE in columns else b""
                yield line, tuple(image if c == IMAGE else v for c, v in zip(columns, values, strict=True))


def load(root: Path, name: str, options: ImageColumns, suffixes: Sequence[str], labels: Labels) -> Source:
    """The images that the CSV file `name` in `root` lists. DataError lists every row without an image."""
    problems, notes = Problems(), list[str]()
    table = open_table(located(str(root / name)), name, problems, notes)
    problems.check()
    assert table is not None
    file = next((c for n in _NAMES for c in table.columns if c.lower() == n), next(iter(table.columns)))
    notes.append(f"column '{file}' of {name} is taken as the path of the image")
    files = _files(table, root, file, problems)
    problems.check()
    if not files:
        raise DataError(Problem(name, "lists no image"))
    notes += _unlisted(root, files, suffixes)
    found = [split for split in SPLITS if split in set(map(_split_of, files))]
    if "train" not in found:
        found = [ALL]
    elif rest := [path for path in files if not _split_of(path)]:
        notes.append(left_out(rest))
    tables = {split: [_Listed(table, root, split, file)] for split in found}
    return _tabular.load(tables, options, "image", str(root / name), notes, labels)


def _split_of(path: str) -> str:
    return split_named(PurePosixPath(path).parts[0]) if path else ""


def _files(table: CsvTable, root: Path, column: str, problems: Problems) -> dict[str, int]:
    """path -> its line; a row whose image is not there, lies outside or stands twice is a problem."""
    files: dict[str, int] = {}
    for line, (path,) in table.rows((column,), problems):
        place = f"{table.name}:{line}"
        if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            problems.add(place, f"'{path}' is not the path of an image below {root}")
        elif path in files:
            problems.add(place, f"'{path}' stands in line {files[path]} already")
        elif not (root / path).is_file():
            folder = (root / path).parent
            beside = [f.name for f in folder.iterdir()] if folder.is_dir() else []
            problems.add(place, f"no such file '{path}'", nearest(PurePosixPath(path).name, beside))
        files.setdefault(path, line)
    return files


def _unlisted(root: Path, files: Mapping[str, int], suffixes: Sequence[str]) -> list[str]:
    images = (f.relative_to(root).as_posix() for f in root.rglob("*") if f.suffix.lower() in suffixes)
    rest = sorted(path for path in images if path not in files)
    return [f"left out, because the list does not name them: {some_of(map(printable, rest))}"] if rest else []
