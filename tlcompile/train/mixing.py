"""Batches of mixed images and soft targets.

mixup: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, section 2. CutMix: S. Yun et al.,
"CutMix", ICCV 2019, section 3.1. The two images of a pair, next to each other in the batch, are mixed with each other,
so processes that share a batch mix as one process does (each has an even number of examples, or its last stays whole).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train.chance import words


class Mix:
    """Call it with a batch: its inputs and its targets mixed; as they came where nothing is to be mixed.

    Class indices int64 [N] become shares float32 [N, K]; targets that are float already keep their shape.

    `alphas` has the parameter of Beta for each way that is on. Where both are, each batch gets one of them, evenly. The
    choice, lambda and the box are a function of (seed, epoch, batch).
    """

    def __init__(self, augment: AugmentTable, classes: int, seed: int) -> None:
        self.seed, self.classes = seed, classes
        alphas = {"mixup": augment.mixup, "cutmix": augment.cutmix}
        self.alphas = {way: alpha for way, alpha in alphas.items() if alpha}

    def __call__(
        self, inputs: dict[str, Tensor], targets: Tensor, epoch: int, batch: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        if not self.alphas:
            return inputs, targets
        soft = targets if targets.is_floating_point() else one_hot(targets, self.classes).float()
        rng = np.random.default_rng(words(self.seed, epoch, [batch], "mix", 1)[0])
        way = list(self.alphas)[rng.integers(len(self.alphas))]
        own = rng.beta(self.alphas[way], self.alphas[way])
        partner = partners(len(soft)).to(soft.device)
        pixels = inputs["pixels"]
        if way == "mixup":
            mixed = pixels.lerp(pixels[partner], 1 - own)
        else:
            mixed, own = cut(pixels, partner, own, rng)
        return {**inputs, "pixels": mixed}, soft.lerp(soft[partner], 1 - own)


def partners(n: int) -> Tensor:
    """int64 [n]: 1, 0, 3, 2, …; of an odd number the last stands for itself."""
    indices = torch.arange(n)
    return torch.where(indices == n - n % 2, indices, indices ^ 1)


def cut(pixels: Tensor, partner: Tensor, own: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """(`pixels` [N, C, H, W] with a box of their partners', the share of their own area that is left).

    The box has the share 1 - `own` of the area and any pixel for its centre; what lies outside is cut off.
    """
    sizes = np.array(pixels.shape[2:])
    centre, reach = rng.integers(sizes), (sizes * np.sqrt(1 - own) / 2).astype(np.int64)
    (top, left), (bottom, right) = (centre - reach).clip(0), np.minimum(centre + reach, sizes)
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[partner, :, top:bottom, left:right]
    return mixed, float(1 - (bottom - top) * (right - left) / sizes.prod())
