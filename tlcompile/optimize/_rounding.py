"""Adaptive rounding of one layer's weight: up or down, whichever makes its output come nearer to what it should be.

M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, section 3: each weight w is
floor(w / s) + h, where h = clip(1.2 σ(v) - 0.1, 0, 1) is learnt (equation 23), with the regularizer
Σ 1 - |2h - 1|^β, which drives h to 0 or 1 as β falls (equation 24). The layer is given what comes out of the quantized
layers before it, and its activation is part of the loss (equation 25).

Channels don't share weights, so each channel's error is taken in units of what rounding adds to it on average
(step² / 12 for each weight, times the mean square of its input), times the number of its weights. That makes one
weight of the regularizer right for all layers. A weight that lies on a step stays there: zeros stay zeros, and as the
largest of each scale is such a weight, no code leaves the range.

All arrays are of groups of channels, G of them: inputs [G, P, K], weights [G, K, O], outputs [G, P, O]; P positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import numpy as np

STRETCH, SHIFT = 1.2, -0.1  # ζ - γ and γ
FREE = 0.2  # share of the steps before the regularizer begins
BETAS = (20.0, 2.0)
WEIGHT = 10.0  # of the regularizer
RATE = 0.03  # of Adam, whose other numbers are the usual ones
BATCH = 256  # positions a step looks at
ON_A_STEP = 1e-4  # nearer than this, in steps: what fp32 leaves of a division


@dataclass(frozen=True)
class Samples:
    """What a layer is given [G, P, K], what shall come out [G, P, O], its bias [G, O], the ends of its activation."""

    inputs: np.ndarray
    outputs: np.ndarray
    bias: np.ndarray
    ends: tuple[float, float]

    def error(self, weight: np.ndarray) -> float:
        """Mean square of what a layer with this `weight` makes differently, over that of `outputs`."""
        made = (self.inputs @ weight + self.bias[:, None]).clip(*self.ends)
        size = float((self.outputs.astype(np.float64) ** 2).mean())
        return float(((made - self.outputs).astype(np.float64) ** 2).mean()) / max(size, 1e-30)

    def some(self, index: np.ndarray | slice) -> Samples:
        """Those positions only."""
        return Samples(self.inputs[:, index], self.outputs[:, index], self.bias, self.ends)


def joined(samples: list[Samples]) -> Samples:
    """Those of one layer, together."""
    inputs, outputs = (
        np.concatenate(values, 1) for values in zip(*((s.inputs, s.outputs) for s in samples), strict=True)
    )
    return Samples(inputs, outputs, samples[0].bias, samples[0].ends)


class Relaxed:
    """`weight` in steps of `step`, both [G, K, O]; `v` of the same shape says where between two steps each is."""

    def __init__(self, weight: np.ndarray, step: np.ndarray) -> None:
        exact = weight / step
        self.step = step
        self.fixed = np.abs(exact - np.rint(exact)) < ON_A_STEP
        self.floor = np.where(self.fixed, np.rint(exact), np.floor(exact))
        rest = np.where(self.fixed, 0, exact - self.floor)
        self.v = np.log((rest - SHIFT) / (STRETCH + SHIFT - rest))

    def up(self) -> tuple[np.ndarray, np.ndarray]:
        """(h, dh / dv)."""
        sigmoid = 1 / (1 + np.exp(-self.v))
        h = STRETCH * sigmoid + SHIFT
        slope = STRETCH * sigmoid * (1 - sigmoid) * ((h > 0) & (h < 1) & ~self.fixed)
        return np.where(self.fixed, 0, h.clip(0, 1)), slope

    def codes(self) -> np.ndarray:
        """Whole numbers of steps."""
        found: np.ndarray = self.floor + (self.up()[0] >= 0.5)
        return found


def loss(relaxed: Relaxed, samples: Samples, unit: np.ndarray, beta: float | None) -> tuple[float, np.ndarray]:
    """(the loss, its gradient by `relaxed.v`). `unit` [G, O] is that of the error; no regularizer without `beta`."""
    h, slope = relaxed.up()
    made = samples.inputs @ (relaxed.step * (relaxed.floor + h)) + samples.bias[:, None]
    low, high = samples.ends
    gap = made.clip(low, high) - samples.outputs
    factor = unit[:, None] / gap.shape[1]
    value = float((gap**2 * factor).sum())
    back = 2 * gap * factor * ((made >= low) & (made <= high))
    gradient = samples.inputs.swapaxes(1, 2) @ back * relaxed.step
    if beta is not None:
        away = 2 * h - 1
        size = np.abs(away)
        power = size ** (beta - 1)
        value += WEIGHT * float((1 - power * size)[~relaxed.fixed].sum())
        gradient -= WEIGHT * 2 * beta * np.sign(away) * power
    return value, gradient * slope


def unit_of(samples: Samples, step: np.ndarray) -> np.ndarray:
    """[G, O]: the number of a channel's weights over the square that rounding them adds to its output; 0: nothing."""
    power = (samples.inputs**2).mean(1)[..., None]
    added = (power * step**2).sum(1) / 12
    return np.where(added > 0, step.shape[1] / np.where(added > 0, added, 1), 0).astype(step.dtype)


def adapt(weight: np.ndarray, step: np.ndarray, samples: Samples, steps: int, seed: int) -> np.ndarray:
    """Codes [G, K, O] of `weight` in units of `step`, after `steps` steps of Adam on batches of `samples`."""
    relaxed, unit = Relaxed(weight, step), unit_of(samples, step)
    mean, square = np.zeros_like(relaxed.v), np.zeros_like(relaxed.v)
    count = samples.inputs.shape[1]
    mixed = samples.some(np.random.default_rng(seed).permutation(count))  # once: slices of it cost no copy
    batches = cycle([mixed.some(slice(i, i + BATCH)) for i in range(0, max(count - BATCH, 0) + 1, BATCH)])
    for index in range(steps):
        _, gradient = loss(relaxed, next(batches), unit, _beta(index / steps))
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient**2 - square)
        size = np.sqrt(square / (1 - 0.999 ** (index + 1))) + 1e-8
        relaxed.v -= RATE / (1 - 0.9 ** (index + 1)) * mean / size
    return relaxed.codes()


def _beta(done: float) -> float | None:
    """Of the regularizer, falling by a cosine behind the first steps, which go without."""
    if done < FREE:
        return None
    start, end = BETAS
    return float(end + (start - end) * (1 + np.cos(np.pi * (done - FREE) / (1 - FREE))) / 2)
