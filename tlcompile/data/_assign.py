"""Which example goes where: stratified, decided by the labels and the seed alone."""

from __future__ import annotations

import numpy as np

_ROLES = {"split": 0, "calibration": 1}


def _shuffled(labels: np.ndarray, label: int, seed: int, role: str) -> np.ndarray:
    """Positions of one class in an order that no other class, split or role has a part in."""
    positions = np.flatnonzero(labels == label)
    return np.random.default_rng((seed, _ROLES[role], label)).permutation(positions)


def assign(labels: np.ndarray, shares: dict[int, float], classes: int, seed: int) -> np.ndarray:
    """The target of each example, uint8 [n]: the keys of `shares`, whose first takes what rounding leaves.

    Each class is cut by the shares, rounded, with at least one example a target; a class needs `len(shares)` examples.
    """
    first, *others = shares
    total = sum(shares.values())
    targets = np.full(len(labels), first, dtype=np.uint8)
    for label in range(classes):
        positions = _shuffled(labels, label, seed, "split")
        start = 0
        for rank, target in enumerate(others, 1):
            spare = len(positions) - start - (len(shares) - rank)  # keep one for each target to come, and for first
            count = min(max(1, round(len(positions) * shares[target] / total)), spare)
            targets[positions[start : start + count]] = target
            start += count
    return targets


def calibration(labels: np.ndarray, size: int, classes: int, seed: int) -> list[int]:
    """Positions of at most `size` examples, each class by its share and at least once where `size` allows.

    Shuffled, so that its beginning is a smaller sample of the same kind.
    """
    counts = np.bincount(labels, minlength=classes)
    size = min(size, len(labels))
    take = _apportion(counts, size)
    chosen = [_shuffled(labels, label, seed, "calibration")[: take[label]] for label in range(classes)]
    order = np.random.default_rng((seed, _ROLES["calibration"])).permutation(np.concatenate(chosen))
    return [int(position) for position in order]


def _apportion(counts: np.ndarray, size: int) -> np.ndarray:
    """`size` seats over classes of `counts` examples by largest remainder, one seat first where there are enough."""
    present = counts > 0
    floor = np.where(present & (present.sum() <= size), 1, 0)
    room = counts - floor
    exact = room * ((size - floor.sum()) / max(room.sum(), 1))
    seats = np.floor(exact).astype(np.int64)
    left = size - floor.sum() - seats.sum()
    most = np.argsort(-(exact - seats), kind="stable")[: int(left)]
    seats[most] += 1
    return np.asarray(floor + seats)
