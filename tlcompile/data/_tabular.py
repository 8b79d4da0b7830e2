"""A source made of tables: rows with named columns, whatever file format holds them.

The format gives `Table`s; here the columns are chosen, labels are read, and rows become examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from tlcompile.artifacts import Labels
from tlcompile.data._columns import Choice, ColumnKind, TextColumns, choose, missing
from tlcompile.data._labels import Reader, Wrong, reader
from tlcompile.data._source import ALL, Example, Problems, Source
from tlcompile.errors import DataError, Problem


class Table(Protocol):
    """One file of rows, read again from the start by each call of `rows`."""

    @property
    def name(self) -> str:
        """How ids and messages call it."""

    @property
    def columns(self) -> Mapping[str, ColumnKind]: ...

    @property
    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """Columns whose integers are indices of these names."""

    def rows(self, columns: Sequence[str], problems: Problems) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """(line or row number from 1, values of `columns`); bad rows go to `problems` and are left out."""


Tables = Mapping[str, Sequence[Table]]


def load(
    tables: Tables,
    options: TextColumns,
    kind: str,
    where: str,
    notes: Sequence[str] = (),
    labels: Labels = "class",
) -> Source:
    """A source over the tables of each split. DataError lists the bad rows and labels of all of them."""
    first = next(iter(tables.values()))[0]
    choice = choose(first.columns, options, kind, first.name, list(first.class_names), labels)
    used = (*choice.example, *choice.label)
    problems = [p for files in tables.values() for t in files for p in missing(used, t.columns, t.name)]
    if problems:
        raise DataError(*problems)
    read_label = reader(labels, options, _declared(tables, choice.label[0]))
    found, more = _scan(tables, choice, kind, read_label)
    classes = read_label.finish(options.class_names, where)
    read = partial(_read, {split: tables[split] for split in found}, choice, read_label)
    arrays = {split: read_label.labels(codes) for split, codes in found.items()}
    target = choice.label[0] if labels == "number" else ""
    return Source(where, classes, arrays, read, (*notes, *choice.notes, *more), target)


def _declared(tables: Tables, label: str) -> tuple[str, ...]:
    """The class names that the tables' schemas give to the label column; DataError if they differ."""
    every = {t.class_names.get(label, ()): t.name for files in tables.values() for t in files}
    if len(every) > 1:
        one, other = list(every.values())[:2]
        raise DataError(Problem(other, f"column '{label}' has other class names than in {one}"))
    return next(iter(every))


def _scan(tables: Tables, choice: Choice, kind: str, labels: Reader) -> tuple[dict[str, Any], list[str]]:
    """(split -> code of each row's label, notes). Texts are looked at too; images are not read yet."""
    problems = Problems()
    notes: list[str] = []
    found: dict[str, Any] = {}
    columns = choice.example if kind == "text" else ()
    count = len(choice.label)
    for split, files in tables.items():
        codes, unlabelled = labels.store(), Problems()
        for table in files:
            for row, values in table.rows((*choice.label, *columns), problems):
                place = f"{table.name}:{row}"
                codes.append(_code(labels, values[:count], choice.label, place, problems, unlabelled))
                for name, text in zip(columns, values[count:], strict=True):
                    if not isinstance(text, str | None):
                        problems.add(place, f"column '{name}' holds {type(text).__name__} {text!r:.40}, not a string")
        none = unlabelled.count == len(codes) or (labels.empty == () and not any(codes))
        if split not in (ALL, "train") and none and len(codes):
            notes.append(f"{split} of the source is left out: none of its {len(codes)} examples has a label")
            continue
        problems.take(unlabelled)
        found[split] = codes
    problems.check()
    return found, notes


def _code(
    labels: Reader, values: Sequence[Any], columns: Sequence[str], place: str, problems: Problems, unlabelled: Problems
) -> Any:
    """The code of a row's label; the code of none where it is wrong or not there, which is then said."""
    try:
        code = labels.code(values)
    except Wrong as wrong:
        problems.add(place, str(wrong))
        return labels.empty
    if code is None:
        unlabelled.add(place, f"column '{columns[0]}' is empty; every example needs a label")
        return labels.empty
    return code


def _read(tables: Tables, choice: Choice, labels: Reader, split: str) -> Iterator[Example]:
    """The examples of `split`; the rows were checked when their labels were read."""
    problems = Problems()
    count = len(choice.example)
    for table in tables[split]:
        for row, values in table.rows((*choice.example, *choice.label), problems):
            name = f"{table.name}:{row}"
            code = _code(labels, values[count:], choice.label, name, problems, problems)
            data = values[0] if isinstance(values[0], bytes) else " ".join(v for v in values[:count] if v)
            yield Example(name, data, labels.label(code))
    problems.check()
