"""A source made of tables: rows with named columns, whatever file format holds them.

The format gives `Table`s; here the columns are chosen, labels become classes, and rows become examples.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from tlcompile.data._columns import Choice, ColumnKind, TextColumns, choose, missing
from tlcompile.data._source import ALL, Example, Problems, Source, some_of
from tlcompile.errors import DataError, Problem

if TYPE_CHECKING:
    import numpy as np

_INTEGER = re.compile(r"-?\d+")
_NO_LABEL = -1


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


def load(tables: Tables, options: TextColumns, kind: str, where: str, notes: Sequence[str] = ()) -> Source:
    """A source over the tables of each split. DataError lists the bad rows and labels of all of them."""
    first = next(iter(tables.values()))[0]
    choice = choose(first.columns, options, kind, first.name, list(first.class_names))
    used = (*choice.example, choice.label)
    problems = [p for files in tables.values() for t in files for p in missing(used, t.columns, t.name)]
    if problems:
        raise DataError(*problems)
    labels = _Labels(_declared(tables, choice.label))
    found, more = _scan(tables, choice, kind, labels)
    order, classes = labels.classes(options.class_names, where)
    read = partial(_read, {split: tables[split] for split in found}, choice, labels, order)
    indices = {split: order[codes] for split, codes in found.items()}
    return Source(where, classes, indices, read, (*notes, *choice.notes, *more))


def _declared(tables: Tables, label: str) -> tuple[str, ...]:
    """The class names that the tables' schemas give to the label column; DataError if they differ."""
    every = {t.class_names.get(label, ()): t.name for files in tables.values() for t in files}
    if len(every) > 1:
        one, other = list(every.values())[:2]
        raise DataError(Problem(other, f"column '{label}' has other class names than in {one}"))
    return next(iter(every))


@dataclass
class _Labels:
    """Values of the label column as numbers: those of `declared`, else in the order in which they were met."""

    declared: tuple[str, ...] = ()
    met: dict[str, int] = field(default_factory=dict)

    def code(self, value: Any) -> int | str:
        """The number of `value`, _NO_LABEL if there is none, or what is wrong with it."""
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            return _NO_LABEL
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, (str, int)):
            return f"the label is {type(value).__name__} {value!r:.40}; a string or an integer is expected"
        if not self.declared:
            return self.met.setdefault(str(value), len(self.met))
        if value == -1:  # Hugging Face's mark of a label that is kept secret
            return _NO_LABEL
        known = isinstance(value, int) and 0 <= value < len(self.declared)
        return int(value) if known else f"the label {value!r:.40} is no index of the {len(self.declared)} class names"

    def classes(self, names: Sequence[str], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """(int32: number -> index of class, what the classes are called)."""
        import numpy as np

        values = list(self.declared)
        order = np.arange(len(values), dtype=np.int32)
        if not values:
            numeric = all(_INTEGER.fullmatch(value) for value in self.met)
            values = sorted(self.met, key=lambda v: (int(v), v)) if numeric else sorted(self.met)
            place = {value: index for index, value in enumerate(values)}
            order = np.array([place[value] for value in self.met], dtype=np.int32)
        if names and (len(names) != len(values) or len(set(names)) != len(names)):
            what = f"class_names must be {len(values)} different names, found {len(names)}"
            raise DataError(Problem(where, f"{what}; the labels are {some_of(values, 20)}"))
        return order, tuple(names) or tuple(values)


def _scan(tables: Tables, choice: Choice, kind: str, labels: _Labels) -> tuple[dict[str, array[int]], list[str]]:
    """(split -> number of each row's label, notes). Texts are looked at too; images are not read yet."""
    problems = Problems()
    notes: list[str] = []
    found: dict[str, array[int]] = {}
    columns = choice.example if kind == "text" else ()
    for split, files in tables.items():
        codes, unlabelled = array("i"), Problems()
        for table in files:
            for row, (label, *texts) in table.rows((choice.label, *columns), problems):
                place = f"{table.name}:{row}"
                code = labels.code(label)
                if code == _NO_LABEL:
                    unlabelled.add(place, f"column '{choice.label}' is empty; every example needs a label")
                elif isinstance(code, str):
                    problems.add(place, code)
                for name, text in zip(columns, texts, strict=True):
                    if not isinstance(text, str | None):
                        problems.add(place, f"column '{name}' holds {type(text).__name__} {text!r:.40}, not a string")
                codes.append(code if isinstance(code, int) else _NO_LABEL)
        if split not in (ALL, "train") and unlabelled.count == len(codes) > 0:
            notes.append(f"{split} of the source is left out: none of its {len(codes)} examples has a label")
            continue
        problems.take(unlabelled)
        found[split] = codes
    problems.check()
    return found, notes


def _read(tables: Tables, choice: Choice, labels: _Labels, order: np.ndarray, split: str) -> Iterator[Example]:
    """The examples of `split`; the rows were checked when their labels were read."""
    problems = Problems()
    for table in tables[split]:
        for row, (*values, label) in table.rows((*choice.example, choice.label), problems):
            code = labels.code(label)
            data = values[0] if isinstance(values[0], bytes) else " ".join(v for v in values if v)
            yield Example(f"{table.name}:{row}", data, int(order[code]) if isinstance(code, int) else _NO_LABEL)
    problems.check()
