"""Texts that a model rewrites, each once in a run: what is done is in a file, so a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from tlcompile import progress

Rewrite = Callable[[list[str]], list[str]]
BATCH = 16


def rewritten(texts: Sequence[Any], path: Path | None, load: Callable[[], Rewrite], label: str) -> dict[str, str]:
    """Each distinct text -> what the model makes of it, itself where that is nothing. Kept in `path` if given.

    `load` opens the model, if there is a text that is not in `path`. Several processes may call this at once.
    """
    if path is None:
        return _rewrite(list(dict.fromkeys(texts)), None, load, label)
    with FileLock(path.with_suffix(".lock")):
        done = _read(path)
        wanted = dict.fromkeys(texts)
        missing = [text for text in wanted if text not in done]
        return {t: b for t, b in done.items() if t in wanted} | _rewrite(missing, path, load, label)


def digest(folders: Sequence[Path]) -> str:
    """Of the files in `folders` by name, size and time of change."""
    files = sorted(f for folder in folders for f in folder.iterdir() if f.is_file())
    facts = [(f"{f.parent.name}/{f.name}", f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _rewrite(texts: list[str], path: Path | None, load: Callable[[], Rewrite], label: str) -> dict[str, str]:
    """Texts of like length together; each batch is appended to `path`."""
    if not texts:
        return {}
    rewrite = load()
    texts = sorted(texts, key=len)
    found: dict[str, str] = {}
    with progress.bar(label, len(texts)) as bar:
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            pairs = [(text, other.strip() or text) for text, other in zip(part, rewrite(part), strict=True)]
            found.update(pairs)
            if path:
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(pair) + "\n" for pair in pairs)
            bar.step(len(part))
    return found


def _read(path: Path) -> dict[str, str]:
    """The pairs of `path`. A last line that a killed run left unfinished is cut off."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    return dict(json.loads(line) for line in whole.splitlines())
