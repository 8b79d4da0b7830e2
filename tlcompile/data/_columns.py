"""Which columns of a table are the example and the label: as the recipe says, else inferred and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Strict

from tlcompile.artifacts import Labels
from tlcompile.errors import DataError, Problem, nearest
from tlcompile.options import Field, NameList, Options

ColumnKind = Literal["text", "integer", "number", "list", "image", "other"]

_NAMES = {
    "label": ("label", "labels", "class", "category", "target", "intent", "topic", "sentiment", "y"),
    "labels": ("labels", "label", "classes", "tags", "topics", "categories", "y"),
    "number": ("target", "value", "label", "score", "rating", "y"),
    "text": ("text", "sentence", "content", "review", "document", "question", "utterance", "query"),
    "image": ("image", "img", "picture", "photo"),
}
_LABEL_ROLE = {"class": "label", "classes": "labels", "number": "number"}
_LABEL_KINDS = {"class": ("text", "integer"), "classes": ("text", "list"), "number": ("number", "integer", "text")}


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


OneOrMore = Annotated[tuple[str, ...], Strict(False), BeforeValidator(_as_list, json_schema_input_type=str | list[str])]


class TextColumns(Options):
    """Options of every table that can bring texts."""

    text: OneOrMore = Field((), description="column of the text, or several joined by a space; inferred if not given")
    label: str = Field("", description="column of the label; inferred if not given")
    label_columns: NameList = Field((), description="several labels: columns of 0 and 1, each named after its class")
    label_separator: str = Field("|", min_length=1, description="what divides several labels in one text")
    class_names: NameList = Field(
        (), description="what the classes are called, in the order of the sorted labels; the labels if not given"
    )


class ImageColumns(TextColumns):
    """Options of every table that can also bring images."""

    image: str = Field("", description="column of the encoded image; inferred if not given")


@dataclass(frozen=True)
class Choice:
    """The columns to read. `example` is one image column, or text columns to be joined; `label` one, or several 0/1."""

    example: tuple[str, ...]
    label: tuple[str, ...]
    notes: tuple[str, ...]


def choose(
    columns: Mapping[str, ColumnKind],
    options: TextColumns,
    kind: str,
    where: str,
    named: Sequence[str] = (),
    labels: Labels = "class",
) -> Choice:
    """Choose among `columns` (name -> kind); `named` are those whose integers are known to be classes.

    DataError if a given name is not there, or if none or several could be meant.
    """
    notes: list[str] = []
    given = {"text": options.text, "image": _given_image(options)}
    wanted = given.pop(kind)
    given_labels = options.label_columns or ((options.label,) if options.label else ())
    problems = [*missing((*wanted, *given_labels), columns, where), *_both(options, labels, where)]
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
    label = given_labels or _infer_label(columns, wanted, named, labels, notes)
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


def _both(options: TextColumns, labels: Labels, where: str) -> list[Problem]:
    """What is wrong with `label_columns` beside another key or task."""
    if not options.label_columns or (labels == "classes" and not options.label):
        return []
    what = "is beside label = ...; keep one" if options.label else "is for tasks with several labels an example"
    return [Problem(where, f"label_columns = [...] {what}")]


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


Found = tuple[str, ...]


def _infer_label(
    columns: Mapping[str, ColumnKind], taken: Sequence[str], named: Sequence[str], labels: Labels, notes: list[str]
) -> Found:
    free = [c for c in columns if c not in taken and columns[c] in _LABEL_KINDS[labels]]
    found = _by_name(free, _LABEL_ROLE[labels], "label", notes)
    return found or _only([c for c in free if c in named], "label", "the only one with class names", notes)


def _infer_example(columns: Mapping[str, ColumnKind], label: Sequence[str], kind: str, notes: list[str]) -> Found:
    free = [c for c in columns if c not in label and columns[c] == kind]
    reason = "the only one with image bytes" if kind == "image" else "the only one with text"
    return _only(free, kind, reason, notes) or _by_name(free, kind, kind, notes)


def _by_name(columns: Sequence[str], names: str, role: str, notes: list[str]) -> Found:
    """The column whose name says that it has this role, the plainest name first."""
    for name in _NAMES[names]:
        for column in columns:
            if column.lower() == name:
                notes.append(f"column '{column}' is taken as the {role}: by its name")
                return (column,)
    return ()


def _only(columns: Sequence[str], role: str, reason: str, notes: list[str]) -> Found:
    if len(columns) != 1:
        return ()
    notes.append(f"column '{columns[0]}' is taken as the {role}: {reason}")
    return (columns[0],)
