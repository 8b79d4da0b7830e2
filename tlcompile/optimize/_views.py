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
"span:N" is one at a place as good as random, the same share of each document for the same N (see `share_of_span`),
"windows:STRIDE" is every window of a document, one each STRIDE tokens. "spans:K" stands for "span:1" to "span:K".
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
SHARES = 1024
PLACES = {"head": 0, "middle": SHARES // 2, "tail": SHARES}
MOST_SPANS = 32
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
    "text": (*PLACES, "span:1", "span:2", "windows:128"),
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
    """`moves` work on the network's input, in their order: ("shift", (4, 0)); `zoom` and `corner` on the raw image.

    A window of a text starts where `share` / SHARES of what does not fit is left out; all of them have a `stride`.
    """

    name: str
    zoom: float = 1.0
    corner: str = ""
    moves: tuple[tuple[str, tuple[float, ...]], ...] = ()
    share: int = 0
    stride: int = 0

    @property
    def all_windows(self) -> bool:
        return self.stride > 0


def lawful(kind: str) -> tuple[str, ...]:
    """Candidates for a task on 'image' or 'text', the plain one first; which fit the data is to be measured."""
    return _LAWFUL[kind]


def parse(names: Sequence[str], kind: str, where: str = "tta.views") -> tuple[View, ...]:
    """The views, groups in full. RecipeError tells every name that is unknown, forbidden for `kind` or there twice."""
    read = _images if kind == "image" else _texts
    problems: list[Problem] = [] if names else [Problem(where, "expected at least one view")]
    found: dict[str, View] = {}
    for name in names:
        try:
            views = read(name)
        except ValueError as error:
            problems.append(_told(name, kind, where, str(error)))
            continue
        problems += [Problem(where, f"'{view.name}' is there twice") for view in views if view.name in found]
        found |= {view.name: view for view in views}
    if problems:
        raise RecipeError(*problems)
    return tuple(found.values())


def _told(name: str, kind: str, where: str, why: str) -> Problem:
    other = "text" if kind == "image" else "image"
    try:
        (_texts if kind == "image" else _images)(name)
    except ValueError:
        known = (*_LAWFUL[kind], *GROUPS, *(f"crop:{c}" for c in CORNERS)) if kind == "image" else _LAWFUL[kind]
        return Problem(where, f"'{name}': {why}", nearest(name, known))
    return Problem(where, f"'{name}' is a view of {other}s; a task on {kind}s takes {one_of(_LAWFUL[kind])}")


def share_of_span(number: int) -> int:
    """The golden ratio's multiples without their whole part, in SHARES: each falls into one of the largest gaps left.

    D. E. Knuth, "The Art of Computer Programming" 3, section 6.4, theorem S. No two of 1 to MOST_SPANS are the same.
    """
    return number * 633 % SHARES


def _texts(name: str) -> tuple[View, ...]:
    if name in PLACES:
        return (View(name, share=PLACES[name]),)
    match = re.fullmatch(r"(windows|spans?):(\d{1,9})", name, re.ASCII)
    if match is None:
        raise ValueError(f"no such view; expected {one_of((*PLACES, 'span:N', 'spans:K', 'windows:STRIDE'))}")
    word, number = match[1], int(match[2])
    if word == "windows":
        if not number:
            raise ValueError("expected a stride of at least one token")
        return (View(f"windows:{number}", stride=number),)
    if not 1 <= number <= MOST_SPANS:
        raise ValueError(f"expected a number from 1 to {MOST_SPANS}")
    numbers = (number,) if word == "span" else range(1, number + 1)
    return tuple(View(f"span:{n}", share=share_of_span(n)) for n in numbers)


def _images(name: str) -> tuple[View, ...]:
    return tuple(_image(single) for single in GROUPS.get(name, (name,)))


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
