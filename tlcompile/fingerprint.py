"""SHA-256 of files and folders by content, never by name of a path on this machine or by time.

Reading a data set on every build would cost what the store is there to save, so a `StatCache` remembers the content
digest of a tree under the digest of its listing (relative path, size, mtime, ctime and inode of each file). A touched
file is read again and, when its bytes are the same, so is the digest. A tree written to in the last two seconds is not
remembered: a second write within the clock's tick would go unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SETTLED_NS = 2_000_000_000


def text_digest(text: str) -> str:
    """Names of files need not be UTF-8: their stray bytes count as they are."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk(root: str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(relative path, entry) of every file below `root` in sorted order; follows links, skips hidden names."""
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def _listing(path: Path) -> tuple[str, int]:
    """(digest of names and stats, newest change in ns) of a file or a tree."""
    digest, newest = hashlib.sha256(), 0
    found: Iterator[tuple[str, os.stat_result]]
    found = ((n, e.stat()) for n, e in _walk(str(path))) if path.is_dir() else iter([("", path.stat())])
    for name, stat in found:
        line = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}\n"
        digest.update(line.encode(errors="surrogateescape"))
        newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
    return digest.hexdigest(), newest


def tree_digest(path: Path) -> str:
    """Content digest of a file, or of a folder: its sorted relative paths and their content digests."""
    if not path.is_dir():
        return file_digest(path)
    return text_digest("".join(f"{name}\0{file_digest(Path(entry.path))}\n" for name, entry in _walk(str(path))))


class StatCache:
    """Remembers `tree_digest` of trees that did not change, one small file a tree, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def digest(self, path: Path) -> str:
        listing, newest = _listing(path)
        note = self.folder / f"{text_digest(str(path.resolve()))}.json"
        try:
            known = json.loads(note.read_text())
            if known["listing"] == listing:
                return str(known["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # absent or damaged: it is only a memo
        digest = tree_digest(path)
        if _listing(path)[0] == listing and time.time_ns() - newest > _SETTLED_NS:
            with suppress(OSError):  # the same: what can't be remembered is read again
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary = note.with_suffix(f".{os.getpid()}")
                temporary.write_text(json.dumps({"listing": listing, "digest": digest}))
                temporary.replace(note)
        return digest
