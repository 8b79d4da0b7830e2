"""What a process of its own does with a store: tests start it, so it must be importable."""

from __future__ import annotations

import time
from pathlib import Path

from tlcompile.store import Key, Store


def make_slowly(root: str, ready: str) -> tuple[str, bool]:
    """(digest, whether it was there) of an entry whose making takes long enough for two processes to meet."""

    def fill(folder: Path) -> None:
        (Path(ready) / str(time.time_ns())).touch()
        time.sleep(0.5)
        (folder / "out.txt").write_text("made")

    entry = Store(Path(root)).make(Key("stage", {"a": 1}), fill)
    return entry.digest, entry.cached
