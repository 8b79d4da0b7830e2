"""Look at every example once: an image must decode, a text must hold more than white space.

Images are decoded by a pool of threads (Pillow works outside the interpreter's lock), a few at a time, so that memory
does not grow with their number.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlcompile.data._source import Example, Source
from tlcompile.errors import DataError, Problem
from tlcompile.progress import track
from tlcompile.runtime.images import UnreadableImage, decode

_CHUNK_ITEMS = 16
_CHUNK_BYTES = 4 << 20

Size = tuple[int, int]  # height, width in pixels after EXIF orientation; (0, 0) of a text


@dataclass(frozen=True)
class Audit:
    """What was seen of one split, in the source's order."""

    sizes: np.ndarray  # int32 [n, 2] height, width; 0 of a text or a broken image
    good: np.ndarray  # bool [n]
    broken: tuple[tuple[str, str], ...]  # (id, why)


def audit(source: Source, split: str) -> Audit:
    """Check every example of `split`."""
    labels = source.labels[split]
    sizes = np.zeros((len(labels), 2), dtype=np.int32)
    good = np.zeros(len(labels), dtype=bool)
    broken = []
    examples = aligned(source, split)
    for row, (name, found) in enumerate(track(_checked(examples), f"data: check {split}", len(labels))):
        if isinstance(found, str):
            broken.append((name, found))
        else:
            sizes[row], good[row] = found, True
    return Audit(sizes, good, tuple(broken))


def aligned(source: Source, split: str) -> Iterator[Example]:
    """The examples of `split`; DataError if they are not those whose labels were read before."""
    labels = source.labels[split]
    row = 0
    for row, example in enumerate(source.read(split), 1):
        if row > len(labels) or not _equal(example.label, labels[row - 1]):
            raise DataError(Problem(source.where, f"changed while it was read, at '{example.id}'"))
        yield example
    if row != len(labels):
        raise DataError(Problem(source.where, f"changed while it was read: {len(labels)} examples before, {row} now"))


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) if np.ndim(other) == 0 else bool((one == other).all())


def _checked(examples: Iterable[Example]) -> Iterator[tuple[str, Size | str]]:
    """(id, size or why it is broken) of each, in order."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[tuple[list[Example], Future[list[Size | str]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in _chunks(examples):
            waiting.append((chunk, pool.submit(_check, chunk)))
            if len(waiting) > 2 * threads:
                yield from _found(*waiting.popleft())
        while waiting:
            yield from _found(*waiting.popleft())


def _found(chunk: list[Example], check: Future[list[Size | str]]) -> Iterator[tuple[str, Size | str]]:
    return zip((example.id for example in chunk), check.result(), strict=True)


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """A thread's portions: small images one by one would cost more in handing over than in decoding."""
    chunk: list[Example] = []
    size = 0
    for example in examples:
        chunk.append(example)
        size += len(example.data)
        if len(chunk) >= _CHUNK_ITEMS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _check(examples: list[Example]) -> list[Size | str]:
    return [_check_text(e.data) if isinstance(e.data, str) else _check_image(e.data) for e in examples]


def _check_image(data: bytes) -> Size | str:
    try:
        height, width, _ = decode(data).shape
    except UnreadableImage as error:
        return str(error)
    return height, width


def _check_text(text: str) -> Size | str:
    if not text.strip():
        return "is an empty text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return 0, 0
