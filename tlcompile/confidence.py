"""How sure an answer is: what an early exit is decided by, in Python as in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def confidence(probabilities: np.ndarray, several: bool) -> np.ndarray:
    """[N, K] -> [N]: of one class the largest probability, of several labels the least certain one."""
    import numpy as np

    if several:
        return np.asarray(np.maximum(probabilities, 1 - probabilities).min(-1))
    return np.asarray(probabilities.max(-1))
