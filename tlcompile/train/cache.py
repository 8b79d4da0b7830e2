"""Pictures decoded once into one file of plain pixels, from which every later epoch reads.

The file holds uint8 [H, W, 3] one after another; where each lies follows from the shapes, which are known before
anything is decoded. A picture is read at its place, not through a memory map: the operating system keeps the pages that
are in use either way, but pages touched through a map would count as memory of the training process until the whole
file is resident.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock

from tlcompile import progress
from tlcompile.artifacts import ImageSpec
from tlcompile.train.views import fit

_PART, _PART_BYTES = 256, 64 << 20  # decoded at a time: at most so many pictures, so many bytes or one picture
_SMALL = 192 * 192 * 3
"""Bytes below which a picture takes longer in several threads than in one: they wait for the interpreter's lock, which
Pillow gives back and takes again a few times for each (`benchmarks/LOG.md`)."""


class Pictures(Protocol):
    """`pictures[i]` is uint8 [height, width, 3]; `shapes` int [n, 2] are known without decoding."""

    @property
    def shapes(self) -> np.ndarray: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


class Fitted:
    """`pictures` as `views.fit` makes them: all uint8 [size, size, 3]."""

    def __init__(self, pictures: Pictures, spec: ImageSpec, size: int) -> None:
        self.pictures, self.spec, self.size = pictures, spec, size
        self.shapes = np.full((len(pictures.shapes), 2), size)

    def __getitem__(self, index: int) -> np.ndarray:
        return fit(self.pictures[index], self.spec, self.size)


class Kept:
    """The pictures of a finished file. Forked and spawned processes may share it."""

    def __init__(self, path: Path, shapes: np.ndarray) -> None:
        self.path, self.shapes = path, shapes
        self._start = np.concatenate([[0], np.cumsum(_bytes(shapes))])
        self._file = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._file)

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = self.shapes[index]
        data = os.pread(self._file, int(height) * int(width) * 3, int(self._start[index]))
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def __reduce__(self) -> tuple[type[Kept], tuple[Path, np.ndarray]]:
        return Kept, (self.path, self.shapes)


def keep(pictures: Pictures, work: Path, name: str, facts: Sequence[object], most_mib: int) -> Pictures:
    """`pictures` out of a file in `work`, which is made now if need be; themselves where that would not fit.

    `facts` are all that decides the pixels: a file made of others is not taken. Several processes may call this at
    once.
    """
    size = int(_bytes(pictures.shapes).sum())
    if not size or not _fits(size, work, name, most_mib):
        return pictures
    digest = hashlib.sha256(repr([*facts, pictures.shapes.tolist()]).encode()).hexdigest()[:16]
    path = work / f"pixels-{name}-{digest}.u8"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            for old in work.glob(f"pixels-{name}-*.u8"):
                old.unlink()
            _write(pictures, path)
    return Kept(path, pictures.shapes)


def _fits(size: int, work: Path, name: str, most_mib: int) -> bool:
    """Whether `size` bytes are allowed and free on the disk; said where they are not and a cache was asked for."""
    free = shutil.disk_usage(work).free
    if size <= min(most_mib << 20, free // 2):
        return True
    if most_mib:
        limit = f"{most_mib} MiB of train.cache_mib" if size > most_mib << 20 else f"half of the {free >> 20} MiB free"
        what = f"{size / 2**20:.0f} MiB of pixels are more than {limit}"
        progress.say_once(f"  {name}: {what}: decoded again every epoch")
    return False


def _write(pictures: Pictures, path: Path) -> None:
    """All `pictures` into `path`, which appears when it is complete. Decoders of large ones run on every core."""
    unfinished = path.with_suffix(".part")
    encoded = pictures.pictures if isinstance(pictures, Fitted) else pictures
    large = bool(_bytes(encoded.shapes).mean() >= _SMALL)
    with (
        unfinished.open("wb") as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress.bar("decode", len(pictures.shapes)) as bar,
    ):
        for part in _parts(_bytes(pictures.shapes)):
            decoded = (pool.map if large else map)(pictures.__getitem__, part)
            for index, picture in zip(part, decoded, strict=True):
                assert picture.shape == (*pictures.shapes[index], 3), f"picture {index} is not of its known shape"
                file.write(np.ascontiguousarray(picture).data)
            bar.step(len(part))
    os.replace(unfinished, path)


def _parts(sizes: np.ndarray) -> Iterator[range]:
    """Consecutive indices, few enough to be in memory at once."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + _PART_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + _PART)
        yield range(start, stop)
        start = stop


def _bytes(shapes: np.ndarray) -> np.ndarray:
    """int64 [n]: the size of each picture."""
    sizes: np.ndarray = shapes.astype(np.int64).prod(axis=1) * 3
    return sizes
