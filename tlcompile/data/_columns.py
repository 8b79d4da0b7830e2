"""Which columns of a table are the example and the label: as the recipe says, else inferred and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Strict

from tlcompile.errors import DataError, Problem, nearest
from tlcompile.options import Field, NameList, Options

ColumnKind = Literal["text", "integer", "image", "other"]

_NAMES = {
    "label": ("label", "labels", "class", "category", "target", "intent", "topic", "sentiment", "y"),
    "text": ("text", "sentence", "content", "review", "document", "question", "utterance", "query"),
    "image": ("image", "img", "picture", "photo"),
}


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


OneOrMore = Annotated[tuple[str, ...], Strict(False), BeforeValidator(_as_list, json_schema_input_type=str | list[str])]


class TextColumns(Options):
    """Options of every table that can bring texts."""

    text: OneOrMore = Field((), description="column of the text, or several joined by a space; inferred if not given")
    label: str = Field("", description="column of the label; inferred if not given")
    class_names: NameList = Field(
        (), description="what the classes are called, in the order of the sorted labels; the labels if not given"
    )


class ImageColumns(TextColumns):
    """Options of every table that can also bring images."""

    image: str = Field("", description="column of the encoded image; inferred if not given")


@dataclass(frozen=True)
class Choice:
    """The columns to read. `example` is one image column, or text columns to be joined."""

    example: tuple[str, ...]
    label: str
    notes: tuple[str, ...]


def choose(
    columns: Mapping[str, ColumnKind], options: TextColumns, kind: str, where: str, named: Sequence[str] = ()
) -> Choice:
    """Choose among `columns` (name -> kind); `named` are those whose integers are known to be classes.

    DataError if a given name is not there, or if none or several could be meant.
    """
    notes: list[str] = []
    given = {"text": options.text, "image": _given_image(options)}
    wanted = given.pop(kind)
    problems = missing((*wanted, *((options.label,) if options.label else ())), columns, where)
    problems += [
        Problem(where, f"{role} = ... is given, but the task learns from {kind}s") for role in given if given[role]
    ]
    problems += [
        Problem(where, f"column '{name}' is not of {kind}s; {listed(columns)}")
        for name in wanted
        if columns.get(name, kind) != kind
    ]
    if problems:
        raise DataError(*problems)
    label = options.label or _infer_label(columns, wanted, kind, named, notes)
    example = wanted or _infer_example(columns, label, kind, notes)
    if example and not label:
        label = _only([c for c in columns if c not in example], "label", "the only other one", notes)
    for found, role in ((label, "label"), (example, kind)):
        if not found:
            what = f'no column can be taken as the {role} without being told; {listed(columns)}; give {role} = "..."'
            problems.append(Problem(where, what))
    if problems:
        raise DataError(*problems)
    return Choice(example, label, tuple(notes))


def _given_image(options: TextColumns) -> tuple[str, ...]:
    return (options.image,) if isinstance(options, ImageColumns) and options.image else ()


def missing(wanted: Sequence[str], columns: Mapping[str, ColumnKind], where: str) -> list[Problem]:
    """A problem for each wanted column that is not there."""
    return [
        Problem(where, f"has no column '{name}'; {listed(columns)}", nearest(name, columns))
        for name in wanted
        if name not in columns
    ]


def listed(columns: Mapping[str, ColumnKind]) -> str:
    return "its columns are " + ", ".join(f"'{name}' ({kind})" for name, kind in columns.items())


def _infer_label(
    columns: Mapping[str, ColumnKind], taken: Sequence[str], kind: str, named: Sequence[str], notes: list[str]
) -> str:
    free = [c for c in columns if c not in taken and columns[c] in ("text", "integer")]
    found = _by_name(free, "label", notes)
    return found or _only([c for c in free if c in named], "label", "the only one with class names", notes)


def _infer_example(columns: Mapping[str, ColumnKind], label: str, kind: str, notes: list[str]) -> tuple[str, ...]:
    free = [c for c in columns if c != label and columns[c] == kind]
    reason = "the only one with image bytes" if kind == "image" else "the only one with text"
    found = _only(free, kind, reason, notes) or _by_name(free, kind, notes)
    return (found,) if found else ()


def _by_name(columns: Sequence[str], role: str, notes: list[str]) -> str:
    """The column whose name says that it has this role, the plainest name first."""
    for name in _NAMES[role]:
        for column in columns:
            if column.lower() == name:
                notes.append(f"column '{column}' is taken as the {role}: by its name")
                return column
    return ""


def _only(columns: Sequence[str], role: str, reason: str, notes: list[str]) -> str:
    if len(columns) != 1:
        return ""
    notes.append(f"column '{columns[0]}' is taken as the {role}: {reason}")
    return columns[0]
