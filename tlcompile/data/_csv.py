"""Tables in CSV or TSV files. Quotes follow RFC 4180: a field in quotes may hold delimiters, line ends, doubled quotes.

Whatever breaks that is an error with its line, because a parser that goes on shifts labels silently.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlcompile.data._columns import ColumnKind
from tlcompile.data._files import lines
from tlcompile.data._source import Problems

_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
LONGEST_FIELD = 16 << 20  # characters; the csv module's own limit would refuse long documents


@dataclass(frozen=True)
class CsvTable:
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


def open_table(
    path: Path,
    name: str,
    problems: Problems,
    notes: list[str],
    columns: Sequence[str] = (),
    header: bool | None = None,
    delimiter: str = "",
    quoted: bool = True,
) -> CsvTable | None:
    """The table in a file, called `name` in messages; None if there is a problem.

    What is not given (`columns`, `header`, `delimiter`) is found out from its first row.
    """
    delimiter = delimiter or _delimiter(path, name, quoted, notes)
    before = problems.count
    _, first = next(_records(path, name, delimiter, quoted, problems), (1, []))
    if not first:
        if problems.count == before:
            problems.add(name, "the file is empty")
        return None
    if header is None:
        header = not columns and _is_header(first)
    names = [column.strip() for column in columns or (first if header else ())]
    if not names:
        what = f"the first row is no header ({', '.join(first):.80}); give columns = [...]"
        problems.add(f"{name}:1", f"{what}, a name for each of its {_fields(len(first))}")
        return None
    if len(set(names)) < len(names):
        problems.add(f"{name}:1", f"two columns have the same name: {', '.join(names)}")
        return None
    return CsvTable(path, name, delimiter, quoted, bool(header), dict.fromkeys(names, "text"))


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
    csv.field_size_limit(LONGEST_FIELD)
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
