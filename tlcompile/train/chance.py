"""Random numbers as a pure function of where they are used.

A generator has a state that workers, processes and a resumed run would have to share. Here a number is the hash of
(seed, epoch, index of the example, what it is for, which one): nobody has to share anything, and a batch gets its
numbers in one call. The hash is SplitMix64's mixer (G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014, section 5) applied once for each part.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, epoch: int, indices: Sequence[int], purpose: str, count: int) -> np.ndarray:
    """float64 [len(indices), count] in [0, 1): numbers of their own for each example and each `purpose`."""
    return (words(seed, epoch, indices, purpose, count) >> np.uint64(11)) * 2.0**-53


def words(seed: int, epoch: int, indices: Sequence[int], purpose: str, count: int) -> np.ndarray:
    """uint64 [len(indices), count], as `uniforms`: 64 random bits each."""
    start = np.zeros(1, np.uint64)
    for part in (seed, epoch, zlib.crc32(purpose.encode())):
        start = _mixed(start, np.uint64(part))
    examples = _mixed(start, np.asarray(indices, dtype=np.uint64))
    return _mixed(examples[:, None], np.arange(1, count + 1, dtype=np.uint64)[None])


def _mixed(state: np.ndarray, part: np.ndarray | np.uint64) -> np.ndarray:
    """`state` advanced by `part`: uint64 of the shape that both broadcast to."""
    x = (state ^ part) + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
