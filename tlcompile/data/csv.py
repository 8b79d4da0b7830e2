"""Texts in CSV or TSV files: one file, or a folder with files named after train, val (or dev) and test.

Quotes follow RFC 4180: a field in quotes may hold delimiters, line ends and doubled quotes. Whatever breaks that is an
error with its line, because a parser that goes on shifts labels silently.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tlcompile.data import _tabular
from tlcompile.data._columns import ColumnKind, TextColumns
from tlcompile.data._files import lines, name_of, split_files
from tlcompile.data._source import Problems, Source, located, some_of
from tlcompile.options import Field, NameList, RecipePath

KINDS = ("text",)
PACKAGES: tuple[str, ...] = ()
SUFFIXES = (".csv", ".tsv")
_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
_LONGEST_FIELD = 16 << 20  # characters; the csv module's own limit would refuse long documents


class Options(TextColumns):
    """`source = "csv"`"""

    path: RecipePath = Field(description="a .csv or .tsv file, or a folder with files named after train, val and test")
    columns: NameList = Field((), description="names of the columns of files without a header, e.g. ['label', 'text']")
    header: bool | None = Field(None, description="whether the first row names the columns; inferred if not given")
    delimiter: str = Field("", pattern=r'^[^"\r\n]?$', description="inferred from suffix and first row if not given")
    quote: Literal["double", "none"] = Field("double", description="none: quotation marks are plain characters")


@dataclass(frozen=True)
class _File:
    """A `_tabular.Table` over one file."""

    path: Path
    name: str
    delimiter: str
    quoted: bool
    header: bool
    columns: dict[str, ColumnKind]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self, columns: Sequence[str], problems: Problems) -> Iterator[tuple[int, tuple[Any, ...]]]:
        names = list(self.columns)
        wanted = [names.index(column) for column in columns]
        records = _records(self.path, self.name, self.delimiter, self.quoted, problems)
        if self.header:
            next(records, None)
        for line, fields in records:
            if len(fields) == len(names):
                yield line, tuple(fields[i] for i in wanted)
            else:
                expected = f"{len(names)} are expected ({', '.join(names)})"
                problems.add(f"{self.name}:{line}", f"the row has {_fields(len(fields))}; {expected}")


def load(options: Options, kind: str, seed: int) -> Source:
    """Read the labels of all rows; texts are streamed later."""
    root = located(options.path)
    files, notes = split_files(options.path, SUFFIXES)
    problems = Problems()
    tables: dict[str, list[_tabular.Table]] = {split: [] for split in files}
    for split, paths in files.items():
        for path in paths:
            if table := _open(path, name_of(path, root), options, problems, notes):
                tables[split].append(table)
    problems.check()
    if not options.columns and options.header is None:
        headed = some_of(table.name for files in tables.values() for table in files)
        notes.append(f"the first row is taken as the header ({headed}): no field is empty, a number or repeated")
    return _tabular.load(tables, options, kind, str(root), notes)


def _open(path: Path, name: str, options: Options, problems: Problems, notes: list[str]) -> _File | None:
    """Find out delimiter, header and columns of a file from its first row; None if there is a problem."""
    quoted = options.quote == "double"
    delimiter = options.delimiter or _delimiter(path, name, quoted, notes)
    before = problems.count
    _, first = next(_records(path, name, delimiter, quoted, problems), (1, []))
    if not first:
        if problems.count == before:
            problems.add(name, "the file is empty")
        return None
    header = options.header
    if header is None:
        header = not options.columns and _is_header(first)
    names = [column.strip() for column in options.columns or (first if header else ())]
    if not names:
        what = f"the first row is no header ({', '.join(first):.80}); give columns = [...]"
        problems.add(f"{name}:1", f"{what}, a name for each of its {_fields(len(first))}")
        return None
    if len(set(names)) < len(names):
        problems.add(f"{name}:1", f"two columns have the same name: {', '.join(names)}")
        return None
    return _File(path, name, delimiter, quoted, bool(header), dict.fromkeys(names, "text"))


def _delimiter(path: Path, name: str, quoted: bool, notes: list[str]) -> str:
    """That of the file's suffix if it divides the first row, else the first that does."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    for delimiter in dict.fromkeys((usual, *_DELIMITERS)):
        _, first = next(_records(path, name, delimiter, quoted, Problems()), (1, []))
        if len(first) > 1:
            if delimiter != usual:
                found, missed = _DELIMITERS[delimiter], _DELIMITERS[usual]
                notes.append(f"fields of {name} are divided by {found}s: its first row has no {missed}")
            return delimiter
    return usual


def _is_header(fields: Sequence[str]) -> bool:
    return all(fields) and len(set(fields)) == len(fields) and not any(_is_number(field) for field in fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _records(
    path: Path, name: str, delimiter: str, quoted: bool, problems: Problems
) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) of each row that is not blank. Stops where the quotes can't be followed."""
    csv.field_size_limit(_LONGEST_FIELD)
    taken: list[str] = []  # the lines of the row at hand

    def source() -> Iterator[str]:
        for line in lines(path, name, problems):
            taken.append(line)
            yield line

    reader = csv.reader(
        source(), delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    )
    while True:
        line = reader.line_num + 1
        taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(f"{name}:{line}", _stray(str(error), line, reader.line_num))
            return
        if quoted and sum(text.count('"') for text in taken) % 2:
            problems.add(f"{name}:{line}", _stray("an odd number of quotation marks", line, reader.line_num))
        elif fields:
            yield line, fields


def _stray(why: str, first: int, last: int) -> str:
    reach = f", read up to line {last}" if last > first else ""
    return f'a stray quote in this row ({why}{reach}); write it as "" in a quoted field, or say quote = "none"'


def _fields(count: int) -> str:
    return f"{count} field{'s' * (count != 1)}"
