"""`golden.npz`: a few real feeds and what the graph must answer. The self-test of every step and of the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tlcompile.artifacts import Feed


def save(path: Path, feeds: list[Feed], outputs: list[Feed]) -> None:
    arrays = {f"feed{i}.{name}": value for i, feed in enumerate(feeds) for name, value in feed.items()}
    arrays |= {f"output{i}.{name}": value for i, out in enumerate(outputs) for name, value in out.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load(path: Path) -> tuple[list[Feed], list[Feed]]:
    """(feeds, outputs) in their order."""
    sides: dict[str, dict[int, Feed]] = {"feed": {}, "output": {}}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            place, name = key.split(".", 1)
            side = place.rstrip("0123456789")
            sides[side].setdefault(int(place[len(side) :]), {})[name] = arrays[key]
    feeds, outputs = ([found[i] for i in sorted(found)] for found in sides.values())
    return feeds, outputs
