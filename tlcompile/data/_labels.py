"""Values of label columns -> labels: one class, several classes, or a number.

A reader sees every row twice. The first time `code` turns its values into a small code, which `_tabular` keeps; then
`finish` knows all classes and turns codes into label arrays; the second time `label` gives the label of one example.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from tlcompile.data._source import some_of
from tlcompile.errors import DataError, Problem

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.artifacts import Labels
    from tlcompile.data._columns import TextColumns

_INTEGER = re.compile(r"-?\d+")
_YES_NO = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}


class Wrong(ValueError):
    """What is wrong with a label, as the end of a sentence that begins with its place."""


class Reader(Protocol):
    """`code` returns None where a row has no label, and raises Wrong."""

    empty: Any  # the code that stands for a row without one

    def code(self, values: Sequence[Any]) -> Any: ...

    def store(self) -> Any:
        """An empty list of codes."""

    def finish(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        """What the classes are called; after it `label` and `labels` may be asked."""

    def label(self, code: Any) -> int | float | np.ndarray: ...

    def labels(self, codes: Any) -> np.ndarray: ...


def reader(labels: Labels, options: TextColumns, declared: tuple[str, ...]) -> Reader:
    """The reader of this kind of label; `declared` are the class names that the tables' schemas give."""
    if labels == "number":
        return Numbers()
    if labels == "class":
        return OneClass(declared)
    return Flags(options.label_columns) if options.label_columns else SeveralClasses(declared, options.label_separator)


def _is_none(value: Any) -> bool:
    return value is None or bool(value != value) or (isinstance(value, str) and not value.strip())


class OneClass:
    """One value, a string or an integer, is the class."""

    empty: Any = -1

    def __init__(self, declared: tuple[str, ...] = ()) -> None:
        self.declared = declared
        self.met: dict[str, int] = {}  # value -> its number, in the order in which they were met
        self.finished = False

    def store(self) -> Any:
        return array("i")

    def code(self, values: Sequence[Any]) -> Any:
        return None if _is_none(values[0]) else self.number(values[0])

    def number(self, value: Any) -> int | None:
        """The number of one class name or index; None of Hugging Face's mark of a label that is kept secret."""
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, (str, int)):
            raise Wrong(f"the label is {type(value).__name__} {value!r:.40}; a string or an integer is expected")
        if not self.declared:
            if self.finished and str(value) not in self.met:
                raise Wrong(f"the label {value!r:.40} was not there when the labels were read")
            return self.met.setdefault(str(value), len(self.met))
        if value == -1:
            return None
        if not isinstance(value, int) or not 0 <= value < len(self.declared):
            raise Wrong(f"the label {value!r:.40} is no index of the {len(self.declared)} class names")
        return value

    def finish(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        import numpy as np

        values = list(self.declared)
        self.order = np.arange(len(values), dtype=np.int32)
        if not values:
            numeric = all(_INTEGER.fullmatch(value) for value in self.met)
            values = sorted(self.met, key=lambda v: (int(v), v)) if numeric else sorted(self.met)
            place = {value: index for index, value in enumerate(values)}
            self.order = np.array([place[value] for value in self.met], dtype=np.int32)
        self.finished = True
        return renamed(values, names, where)

    def label(self, code: Any) -> int | float | np.ndarray:
        return -1 if code == self.empty else int(self.order[code])

    def labels(self, codes: Any) -> np.ndarray:
        found: np.ndarray = self.order[codes]
        return found


class SeveralClasses:
    """A list of class names or indices, or one text that holds them with a separator between. None at all is lawful."""

    empty: Any = ()

    def __init__(self, declared: tuple[str, ...], separator: str) -> None:
        self.one, self.separator = OneClass(declared), separator
        self.seen: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal sets are kept once

    def store(self) -> Any:
        return []

    def code(self, values: Sequence[Any]) -> Any:
        [value] = values
        if value is None:
            return None
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(self.separator)] if value.strip() else []
        elif isinstance(value, list):
            parts = value
        else:
            kind = f"{type(value).__name__} {value!r:.40}"
            raise Wrong(f"the labels are {kind}; a list, or a text with '{self.separator}' between, is expected")
        if any(_is_none(part) for part in parts):
            raise Wrong(f"an empty class name in {value!r:.60}")
        numbers = [self.one.number(part) for part in parts]
        code = tuple(sorted({n for n in numbers if n is not None}))
        return self.seen.setdefault(code, code)

    def finish(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        self.classes = self.one.finish(names, where)
        return self.classes

    def label(self, code: Any) -> int | float | np.ndarray:
        found: np.ndarray = self.labels([code])[0]
        return found

    def labels(self, codes: Any) -> np.ndarray:
        import numpy as np

        found = np.zeros((len(codes), len(self.classes)), np.int8)
        rows = np.repeat(np.arange(len(codes)), [len(code) for code in codes])
        found[rows, self.one.order[[number for code in codes for number in code]]] = 1
        return found


class Flags(SeveralClasses):
    """Columns of 0 and 1, each named after its class."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__(tuple(columns), "")

    def code(self, values: Sequence[Any]) -> Any:
        flags = [_YES_NO.get(str(value).strip().lower()) for value in values]
        if wrong := [i for i, flag in enumerate(flags) if flag is None]:
            if len(wrong) == len(values) and all(_is_none(value) for value in values):
                return None
            column, value = self.one.declared[wrong[0]], values[wrong[0]]
            raise Wrong(f"column '{column}' holds {value!r:.40}; 0 or 1 is expected")
        code = tuple(i for i, flag in enumerate(flags) if flag)
        return self.seen.setdefault(code, code)


class Numbers:
    """A finite number."""

    empty: Any = math.nan

    def store(self) -> Any:
        return array("d")

    def code(self, values: Sequence[Any]) -> Any:
        value = values[0]
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
                raise ValueError
            number = float(value)
        except (ValueError, OverflowError):
            raise Wrong(f"the target is {type(value).__name__} {value!r:.40}; a number is expected") from None
        if not math.isfinite(number):
            raise Wrong(f"the target is {number}; a finite number is expected")
        return number

    def finish(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        if names:
            raise DataError(Problem(where, "class_names = [...] is given, but the task learns a number"))
        return ()

    def label(self, code: Any) -> int | float | np.ndarray:
        return float(code)

    def labels(self, codes: Any) -> np.ndarray:
        import numpy as np

        return np.asarray(codes, np.float64)


def renamed(values: Sequence[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    """`names` if they are given, one for each of `values`; DataError if they are not."""
    if names and (len(names) != len(values) or len(set(names)) != len(names)):
        what = f"class_names must be {len(values)} different names, found {len(names)}"
        raise DataError(Problem(where, f"{what}; the labels are {some_of(values, 20)}"))
    return tuple(names) or tuple(values)
