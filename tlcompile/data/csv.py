"""Texts in CSV or TSV files: one file, or a folder with files named after train, val (or dev) and test."""

from __future__ import annotations

from typing import Literal

from tlcompile.artifacts import Labels
from tlcompile.data import _tabular
from tlcompile.data._columns import TextColumns
from tlcompile.data._csv import open_table
from tlcompile.data._files import name_of, split_files
from tlcompile.data._source import Problems, Source, located, some_of
from tlcompile.options import Field, NameList, RecipePath

KINDS = ("text",)
LABELS = ("class", "classes", "number")
PACKAGES: tuple[str, ...] = ()
SUFFIXES = (".csv", ".tsv")


class Options(TextColumns):
    """`source = "csv"`"""

    path: RecipePath = Field(description="a .csv or .tsv file, or a folder with files named after train, val and test")
    columns: NameList = Field((), description="names of the columns of files without a header, e.g. ['label', 'text']")
    header: bool | None = Field(None, description="whether the first row names the columns; inferred if not given")
    delimiter: str = Field("", pattern=r'^[^"\r\n]?$', description="inferred from suffix and first row if not given")
    quote: Literal["double", "none"] = Field("double", description="none: quotation marks are plain characters")


def load(options: Options, kind: str, seed: int, labels: Labels = "class") -> Source:
    """Read the labels of all rows; texts are streamed later."""
    root = located(options.path)
    files, notes = split_files(options.path, SUFFIXES)
    problems = Problems()
    tables: dict[str, list[_tabular.Table]] = {split: [] for split in files}
    for split, paths in files.items():
        for path in paths:
            table = open_table(
                path,
                name_of(path, root),
                problems,
                notes,
                options.columns,
                options.header,
                options.delimiter,
                options.quote == "double",
            )
            tables[split] += [table] if table else []
    problems.check()
    if not options.columns and options.header is None:
        headed = some_of(table.name for files in tables.values() for table in files)
        notes.append(f"the first row is taken as the header ({headed}): no field is empty, a number or repeated")
    return _tabular.load(tables, options, kind, str(root), notes, labels)
