"""A key that takes one of several types (a number or 'auto') as one mistake instead of one for each type.

pydantic reports what is wrong with each alternative, and puts the alternative's name into the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from tlcompile.options import Options

Mistake = dict[str, Any]


def merged(mistakes: Iterable[Any], model: type[Options]) -> Iterator[Mistake]:
    """`mistakes` of `model`, those of one value brought together; `loc` is then the place in the recipe."""
    for place, found in groupby(mistakes, key=lambda m: _key(m["loc"], model)):
        group = [dict(mistake) for mistake in found]
        if all(mistake["loc"] == place for mistake in group):
            yield from group
            continue
        for mistake in group:
            mistake["rest"] = mistake["loc"][len(place) + 1 :]
        inside = [m for m in group if m["rest"] or not _is_about_type(m)]
        if inside:  # the value is of one of the types, and wrong within it
            yield from ({**m, "loc": (*place, *m["rest"])} for m in inside)
        else:
            yield {**group[0], "type": "alternatives", "loc": place, "alternatives": group}


def _is_about_type(mistake: Mistake) -> bool:
    kind: str = mistake["type"]
    return kind == "literal_error" or kind.endswith(("_type", "_from_float"))


def _key(loc: tuple[Any, ...], model: type[Options]) -> tuple[Any, ...]:
    """The part of `loc` up to and with the first field that is no table."""
    for i, part in enumerate(loc):
        field = model.model_fields.get(part)
        if field is None:
            return loc
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Options)):
            tagged = len(loc) > i + 1 and isinstance(loc[i + 1], str)
            return loc[: i + 1] if tagged else loc
        model = field.annotation
    return loc
