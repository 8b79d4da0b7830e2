"""Which example goes where: stratified, decided by the labels and the seed alone."""

from __future__ import annotations

import numpy as np

from tlcompile.artifacts import Labels

_ROLES = {"split": 0, "calibration": 1}
_BINS = 10


def strata(labels: np.ndarray, kind: Labels, least: int) -> tuple[np.ndarray, int]:
    """(stratum of each example int64 [n], their number): what splits shall hold in equal shares.

    One class: the class. Several classes: the rarest of an example's, one more stratum for those without any. A number:
    its tenth of the range of ranks, fewer bins where there are few examples. Of the last two, strata of fewer than
    `least` examples are put together.
    """
    if kind == "class":
        return labels, int(labels.max(initial=-1)) + 1
    if kind == "classes":
        counts = labels.sum(0, dtype=np.int64)
        rarity = np.where(labels > 0, counts, len(labels) + 1)
        found = np.where(labels.any(1), rarity.argmin(1), labels.shape[1])
    else:
        bins = max(1, min(_BINS, len(labels) // (2 * least)))
        edges = np.quantile(labels, np.arange(1, bins) / bins)
        found = np.searchsorted(edges, labels, side="right")
    counts = np.bincount(found)
    found = np.where(counts[found] < least, len(counts), found)
    return np.unique(found, return_inverse=True)[1], len(np.unique(found))


def _shuffled(labels: np.ndarray, label: int, seed: int, role: str) -> np.ndarray:
    """Positions of one class in an order that no other class, split or role has a part in."""
    positions = np.flatnonzero(labels == label)
    return np.random.default_rng((seed, _ROLES[role], label)).permutation(positions)


def assign(labels: np.ndarray, shares: dict[int, float], classes: int, seed: int) -> np.ndarray:
    """The target of each example, uint8 [n]: the keys of `shares`, whose first takes what rounding leaves.

    Each class is cut by the shares, rounded, with at least one example a target where it has `len(shares)` examples.
    """
    first, *others = shares
    total = sum(shares.values())
    targets = np.full(len(labels), first, dtype=np.uint8)
    for label in range(classes):
        positions = _shuffled(labels, label, seed, "split")
        start = 0
        for rank, target in enumerate(others, 1):
            spare = len(positions) - start - (len(shares) - rank)  # keep one for each target to come, and for first
            count = max(0, min(max(1, round(len(positions) * shares[target] / total)), spare))
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
