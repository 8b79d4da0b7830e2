"""The content-addressed store: named key parts -> a finished folder.

    <store>/<stage>/<key digest>/key.json     the named parts that the digest is made of
                                /entry.json   digest of the output, seconds it took, label (recipe and step)
                                /out/         what the stage made
    <store>/work/<key digest>/                kept between runs: how a killed training goes on
                             .json            seconds that interrupted runs took, which the entry's include
    <store>/lock/<key digest>                 held while the entry is made; the system frees it when its holder dies
    <store>/stat/                             memo of the digests of unchanged data folders

An entry appears by one rename of a folder that is complete, so a killed or failed run leaves none. Two processes that
want the same entry meet at a lock, and the second finds it made. Names of parts matter more than their digest: they
are how `why` tells what changed (after JAX's cache key and ninja's explain).
The store knows neither stages nor torch.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tlcompile.artifacts import read_json, write_json
from tlcompile.errors import Problem, RecipeError
from tlcompile.fingerprint import StatCache, text_digest, tree_digest


@dataclass(frozen=True)
class Key:
    """A stage and the named parts that decide its output. Values are JSON; nesting is told apart by `a.b` names."""

    stage: str
    parts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def flat(self) -> dict[str, str]:
        return dict(_flatten("", self.parts))

    @cached_property
    def digest(self) -> str:
        return text_digest(json.dumps([self.stage, sorted(self.flat.items())]))


def _flatten(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [pair for k, v in value.items() for pair in _flatten(f"{prefix}.{k}" if prefix else str(k), v)]
    return [(prefix, json.dumps(value, ensure_ascii=False))]


@dataclass(frozen=True)
class Entry:
    """A finished output folder. `seconds` is what it took to make, with interrupted runs that it goes on from."""

    folder: Path
    digest: str
    seconds: float
    cached: bool = True


class Store:
    """Finished entries below `root`. Safe for several processes of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stats = StatCache(root / "stat")

    def _place(self, key: Key) -> Path:
        return self.root / key.stage / key.digest

    def find(self, key: Key) -> Entry | None:
        place = self._place(key)
        try:
            entry = read_json(place / "entry.json")
            return Entry(place / "out", entry["digest"], entry["seconds"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None  # absent, or cut short by a loss of power: to be made again

    def work(self, key: Key) -> Path:
        """A folder that outlives a killed run; removed when the entry of `key` is made."""
        folder = self.root / "work" / key.digest
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def make(self, key: Key, fill: Callable[[Path], None], label: str = "", fresh: bool = False) -> Entry:
        """The entry of `key`, made by `fill(empty folder)` if it is not there (or `fresh`)."""
        if not fresh and (found := self.find(key)):
            return found
        from filelock import FileLock

        try:
            self._place(key).parent.mkdir(parents=True, exist_ok=True)
            (self.root / "lock").mkdir(exist_ok=True)
            lock = FileLock(self.root / "lock" / key.digest)
            lock.acquire()
        except OSError as error:
            raise RecipeError(Problem(str(self.root), f"the store is not writable: {error.strerror}")) from error
        try:
            if not fresh and (found := self.find(key)):
                return found
            return self._fill(key, fill, label)
        finally:
            lock.release()

    def _fill(self, key: Key, fill: Callable[[Path], None], label: str) -> Entry:
        place = self._place(key)
        temporary = place.with_name(f"{place.name}.tmp")
        work = self.root / "work" / key.digest
        before = _seconds_of(work)
        shutil.rmtree(temporary, ignore_errors=True)  # ours by the lock: left by a killed run
        out = temporary / "out"
        out.mkdir(parents=True)
        start = time.monotonic()
        try:
            fill(out)
            seconds = round(before + time.monotonic() - start, 3)
            digest = tree_digest(out)
            entry = {"digest": digest, "seconds": seconds, "label": label, "made": int(time.time())}
            write_json(temporary / "key.json", key.flat)
            write_json(temporary / "entry.json", entry)
            if place.exists():
                (place / "entry.json").unlink(missing_ok=True)  # first: an entry is never half there
                shutil.rmtree(place)
            os.rename(temporary, place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # what is raised already says more
                if work.exists():  # the next run goes on there, and what it costs in all is the time of both
                    write_json(work.with_suffix(".json"), {"seconds": before + time.monotonic() - start})
            raise
        shutil.rmtree(work, ignore_errors=True)
        work.with_suffix(".json").unlink(missing_ok=True)
        return Entry(place / "out", digest, seconds, cached=False)

    def why(self, key: Key, label: str) -> list[str]:
        """Why `key` has no entry: the parts that differ from the newest entry of the same label (else stage)."""
        newest: tuple[tuple[bool, int], dict[str, str]] | None = None
        for place in (self.root / key.stage).glob("*/entry.json"):
            try:
                entry, parts = read_json(place), read_json(place.with_name("key.json"))
                rank = (entry["label"] == label, entry["made"])
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue  # just replaced by another process, or damaged
            if newest is None or rank > newest[0]:
                newest = rank, parts
        if newest is None:
            return ["never made in this store"]
        old, new = newest[1], key.flat
        return [
            f"{name}: {old.get(name, '(absent)')} -> {new.get(name, '(absent)')}"
            for name in dict.fromkeys([*new, *old])
            if old.get(name) != new.get(name)
        ]


def _seconds_of(work: Path) -> float:
    """What interrupted runs took that left `work`; a run that was killed outright could not say."""
    try:
        return float(read_json(work.with_suffix(".json"))["seconds"]) if work.exists() else 0.0
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0.0
