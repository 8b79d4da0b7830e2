"""A step of a build, its key in the store, and the walk over a list of steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tlcompile
from tlcompile.artifacts import Splits
from tlcompile.errors import DataError, Problem
from tlcompile.options import PathText
from tlcompile.recipe import Plugin
from tlcompile.store import Entry, Key, Store

STAGES = ("data", "train", "compress", "export", "optimize", "compile", "evaluate", "report", "package")
VERSIONS = {
    **dict.fromkeys(STAGES, 1),
    "data": 2,
    "train": 4,
    "compress": 2,
    "export": 2,
    "optimize": 3,
    "evaluate": 3,
    "report": 2,
}
"""Raised when a stage makes something else out of the same input, so that old entries are not taken for new ones."""

Made = Mapping[str, Entry]


def splits_of(made: Made) -> Splits:
    """What the step `data` made."""
    return Splits(made["data"].folder, made["data"].digest)


@dataclass(frozen=True)
class Step:
    """One folder to be made.

    `needs` are steps whose output this one reads; their digests are part of the key. `parts` are the other named parts
    (options, content of files that the recipe names, versions of the tools in use, device, seed). `make` fills the
    folder out of what was made before; `work` outlives a killed run.
    """

    name: str
    stage: str
    needs: tuple[str, ...]
    parts: Callable[[], dict[str, Any]]
    make: Callable[[Made, Path, Path], None]

    def key(self, made: Made) -> Key:
        inputs = {need: made[need].digest for need in self.needs}
        version = f"{tlcompile.__version__}/{VERSIONS[self.stage]}"
        return Key(self.stage, {"step": self.name, "tlcompile": version, **self.parts(), "inputs": inputs})


@dataclass(frozen=True)
class Look:
    """What a walk found of a step without making it. `entry` is None where it would be made; `reasons` say why."""

    step: Step
    entry: Entry | None
    reasons: tuple[str, ...]


@lru_cache
def _installed() -> dict[str, str]:
    """Distribution -> version, from the names of the `.dist-info` folders: far quicker than reading them."""
    found = {}
    for place in reversed(sys.path):
        for folder in Path(place).glob("*.dist-info"):
            name, _, version = folder.stem.partition("-")
            found[name.lower().replace("_", "-")] = version
    return found


def tools(*packages: str) -> dict[str, str]:
    """Installed versions of distributions; those that are not installed are left out."""
    installed = _installed()
    return {package: installed[package] for package in packages if package in installed}


def plugin_parts(plugin: Plugin, store: Store) -> dict[str, Any]:
    """A plug-in in a key: its name, its options, what its paths contain, the versions of its tools.

    Options in the plug-in's `NOT_IN_KEY` make it quicker and its output no other.
    """
    left_out = getattr(plugin.module, "NOT_IN_KEY", ())
    try:
        options = {
            name: {"content": store.stats.digest(value.absolute)}
            if isinstance(value, PathText)
            else plugin.to_json()[name]
            for name, value in plugin.options
            if name not in left_out
        }
    except OSError as error:  # a dangling link, a file without leave to read it
        raise DataError(Problem(str(error.filename), f"can't be read: {error.strerror}")) from error
    return {"plugin": plugin.name, "options": options, "tools": tools(*plugin.module.PACKAGES)}


def look(steps: list[Step], store: Store, label: str) -> Iterator[Look]:
    """Which steps are in the store, and for the others the parts of their keys that changed. Makes nothing."""
    made: dict[str, Entry] = {}
    for step in steps:
        waiting = [need for need in step.needs if need not in made]
        if waiting:
            yield Look(step, None, tuple(f"after {need}" for need in waiting))
            continue
        key = step.key(made)
        entry = store.find(key)
        if entry:
            made[step.name] = entry
        yield Look(step, entry, () if entry else tuple(store.why(key, f"{label}/{step.name}")))
