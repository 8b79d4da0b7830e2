"""Room + name -> plug-in module. Listing a room imports nothing; a plug-in is imported when a recipe names it.

A plug-in is one module. Its file name is its name in the recipe (`_` in a file is `-` in a recipe where the field
writes it so: `tasks/image_classification.py` is `image-classification`). Files that begin with `_` are helpers, not
plug-ins. Packages of third parties add plug-ins through the entry-point group `tlcompile.<room>`.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from tlcompile.errors import Problem, RecipeError, nearest, one_of

ROOMS = ("data", "models", "tasks", "compress", "optimize", "compile")
_DASHED = ("tasks",)


@lru_cache
def names(room: str) -> tuple[str, ...]:
    """The plug-ins that come with tlcompile, sorted, by the names that recipes use."""
    found = (f.stem for f in (Path(__file__).parent / room).glob("[!_]*.py"))
    return tuple(sorted(n.replace("_", "-") if room in _DASHED else n for n in found))


@lru_cache
def third_party(room: str) -> dict[str, str]:
    """Plug-ins of installed packages: name -> module path. A name of ours can't be taken over."""
    from importlib.metadata import entry_points

    return {p.name: p.value for p in entry_points(group=f"tlcompile.{room}") if p.name not in names(room)}


def load(room: str, name: str, where: str = "") -> ModuleType:
    """Import the plug-in; RecipeError with the nearest name where there is none."""
    if name in names(room):
        return importlib.import_module(f"tlcompile.{room}.{name.replace('-', '_')}")
    others = third_party(room)
    if name in others:
        return importlib.import_module(others[name])
    known = sorted({*names(room), *others})
    raise RecipeError(Problem(where or room, f"'{name}' is not one of {one_of(known)}", nearest(name, known)))
