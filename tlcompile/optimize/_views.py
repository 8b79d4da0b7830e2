"""Views of test-time augmentation: what a recipe calls them, and which are lawful for a task.

A view is written as parts joined by `+`: "identity", "hflip", "hflip+zoom:1.15". Of images:
    hflip, vflip, rot90, rot180, rot270   mirrored; turned counter-clockwise
    shift:RIGHT,DOWN                      moved by pixels of the network's input; what comes in is its reflection
    rotate:DEGREES                        turned counter-clockwise, bilinear; what comes in is the mean colour
    zoom:FACTOR                           the raw image resized to another size, then the centre crop
    crop:top-left, …, crop:bottom-right   another corner of the resized image
"five-crop" and "ten-crop" stand for the centre and the four corners, and for these with their mirror images
(A. Krizhevsky et al., "ImageNet Classification with Deep CNNs", NIPS 2012, section 4.1).
Of texts, where a document has more tokens than the network takes: "head", "middle", "tail" are one window each,
"windows:STRIDE" is every window of a document, one each STRIDE tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tlcompile.errors import Problem, RecipeError, nearest, one_of

TURNS = ("hflip", "vflip", "rot90", "rot180", "rot270")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
FIVE = ("identity", *(f"crop:{corner}" for corner in CORNERS))
GROUPS = {"five-crop": FIVE, "ten-crop": (*FIVE, "hflip", *(f"hflip+crop:{corner}" for corner in CORNERS))}
SPANS = ("head", "middle", "tail")
_LAWFUL = {
    "image": (
        "identity",
        "hflip",
        "shift:4,0",
        "shift:0,4",
        "rotate:5",
        "rotate:-5",
        "zoom:1.15",
        "vflip",
        "rot90",
        "rot180",
        "rot270",
    ),
    "text": (*SPANS, "windows:128"),
}


@dataclass(frozen=True)
class _Numbers:
    """The numbers of a part: how many, which, and these in words."""

    count: int
    fits: Callable[[tuple[float, ...]], bool]
    expected: str


_ZOOM = _Numbers(1, lambda v: 0.1 <= v[0] <= 10 and v[0] != 1, "a factor from 0.1 to 10, not 1")
_SHIFT = _Numbers(2, lambda v: any(v) and all(x % 1 == 0 for x in v), "two whole numbers, not both 0")
_ROTATE = _Numbers(1, lambda v: 0 < abs(v[0]) < 180, "degrees, not 0")


@dataclass(frozen=True)
class View:
    """`moves` work on the network's input, in their order: ("shift", (4, 0)). Of a text `span` says which tokens.

    `zoom` and `corner` work on the raw image, before; `stride` is that of "windows".
    """

    name: str
    zoom: float = 1.0
    corner: str = ""
    moves: tuple[tuple[str, tuple[float, ...]], ...] = ()
    span: str = ""
    stride: int = 0


def lawful(kind: str) -> tuple[str, ...]:
    """Candidates for a task on 'image' or 'text', the plain one first; which fit the data is to be measured."""
    return _LAWFUL[kind]


def parse(names: Sequence[str], kind: str, where: str = "tta.views") -> tuple[View, ...]:
    """The views, groups in full. RecipeError tells every name that is unknown, forbidden for `kind` or there twice."""
    read = _image if kind == "image" else _text
    problems: list[Problem] = [] if names else [Problem(where, "expected at least one view")]
    found: dict[str, View] = {}
    groups = GROUPS if kind == "image" else {}
    for name in (single for given in names for single in groups.get(given, (given,))):
        try:
            view = read(name)
        except ValueError as error:
            problems.append(_told(name, kind, where, str(error)))
            continue
        if view.name in found:
            problems.append(Problem(where, f"'{view.name}' is there twice"))
        found[view.name] = view
    if problems:
        raise RecipeError(*problems)
    return tuple(found.values())


def _told(name: str, kind: str, where: str, why: str) -> Problem:
    other = "text" if kind == "image" else "image"
    try:
        (_text if kind == "image" else _image)(name)
    except ValueError:
        known = (*_LAWFUL[kind], *GROUPS, *(f"crop:{c}" for c in CORNERS)) if kind == "image" else _LAWFUL[kind]
        return Problem(where, f"'{name}': {why}", nearest(name, known))
    return Problem(where, f"'{name}' is a view of {other}s; a task on {kind}s takes {one_of(_LAWFUL[kind])}")


def _text(name: str) -> View:
    if name in SPANS:
        return View(name, span=name)
    if match := re.fullmatch(r"windows:(\d+)", name):
        if not (stride := int(match[1])):
            raise ValueError("expected a stride of at least one token")
        return View(name, span="windows", stride=stride)
    raise ValueError(f"no such view; expected {one_of((*SPANS, 'windows:STRIDE'))}")


def _image(name: str) -> View:
    zoom, corner, parts = 1.0, "", []
    moves: list[tuple[str, tuple[float, ...]]] = []
    for part in name.split("+"):
        word, _, text = part.partition(":")
        if part == "identity":
            continue
        if word == "zoom":
            (zoom,) = _numbers(part, text, _ZOOM)
        elif word == "crop" and text in CORNERS:
            corner = text
        elif part in TURNS:
            moves.append((part, ()))
        elif word == "shift":
            moves.append((word, _numbers(part, text, _SHIFT)))
        elif word == "rotate":
            moves.append((word, _numbers(part, text, _ROTATE)))
        else:
            known = (*TURNS, "shift:RIGHT,DOWN", "rotate:DEGREES", "zoom:FACTOR", *(f"crop:{c}" for c in CORNERS))
            raise ValueError(f"'{part}' is no view; expected {one_of(('identity', *known, *GROUPS))}")
        parts.append(part)
    return View("+".join(parts) or "identity", zoom, corner, tuple(moves))


def _numbers(part: str, text: str, kind: _Numbers) -> tuple[float, ...]:
    try:
        values = tuple(float(t) for t in text.split(","))
    except ValueError:
        values = ()
    if len(values) != kind.count or not kind.fits(values):
        raise ValueError(f"expected {kind.expected} in '{part}'")
    return values
