"""Texts in JSON Lines, an object a line: one file, or a folder with files named after train, val (or dev) and test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tlcompile.artifacts import Labels
from tlcompile.data import _tabular
from tlcompile.data._columns import ColumnKind, TextColumns
from tlcompile.data._files import lines, name_of, split_files
from tlcompile.data._source import Problems, Source, located
from tlcompile.options import Field, RecipePath

KINDS = ("text",)
LABELS = ("class", "classes", "number")
PACKAGES: tuple[str, ...] = ()
SUFFIXES = (".jsonl", ".ndjson")
_KINDS: tuple[tuple[type, ColumnKind], ...] = ((str, "text"), (int, "integer"), (float, "number"), (list, "list"))
_LOOKED_AT = 100  # objects that say which keys there are and of what kind


class Options(TextColumns):
    """`source = "jsonl"`"""

    path: RecipePath = Field(description="a .jsonl file, or a folder with files named after train, val and test")


@dataclass(frozen=True)
class _File:
    """A `_tabular.Table` over one file; a key that an object lacks is None."""

    path: Path
    name: str
    columns: dict[str, ColumnKind]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self, columns: Sequence[str], problems: Problems) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for line, value in _objects(self.path, self.name, problems):
            yield line, tuple(value.get(column) for column in columns)


def load(options: Options, kind: str, seed: int, labels: Labels = "class") -> Source:
    """Read the labels of all lines; texts are streamed later."""
    root = located(options.path)
    files, notes = split_files(options.path, SUFFIXES)
    problems = Problems()
    tables: dict[str, list[_tabular.Table]] = {split: [] for split in files}
    for split, paths in files.items():
        for path in paths:
            name, before = name_of(path, root), problems.count
            columns = _columns(path, name, problems)
            if not columns and problems.count == before:
                problems.add(name, "the file is empty")
            tables[split].append(_File(path, name, columns))
    problems.check()
    return _tabular.load(tables, options, kind, str(root), notes, labels)


def _columns(path: Path, name: str, problems: Problems) -> dict[str, ColumnKind]:
    """The keys of the first objects, each with the kind of its first value."""
    kinds: dict[str, ColumnKind] = {}
    for _, value in islice(_objects(path, name, problems), _LOOKED_AT):
        for key, item in value.items():
            if item is not None and key not in kinds:
                kinds[key] = next((kind for types, kind in _KINDS if isinstance(item, types)), "other")
    return kinds


def _objects(path: Path, name: str, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line that is not blank."""
    for number, line in enumerate(lines(path, name, problems), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            problems.add(f"{name}:{number}", f"not JSON: {error}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            problems.add(f"{name}:{number}", f"a JSON object is expected, found {type(value).__name__} {value!r:.40}")
