"""Batches of mixed images and soft targets.

mixup: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, section 2. CutMix: S. Yun et al.,
"CutMix", ICCV 2019, section 3.1. Both as torchvision v2 has them: an image is mixed with the one before it in its
batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train.chance import words


class Mix:
    """Call it with a batch: its inputs and its targets mixed; as they came where nothing is to be mixed.

    Class indices int64 [N] become shares float32 [N, K]; targets that are float already keep their shape.

    Where both are on, each batch gets one of them, evenly. The choice, lambda and the box are a function of
    (seed, epoch, batch).
    """

    def __init__(self, augment: AugmentTable, classes: int, seed: int) -> None:
        self.seed, self.classes = seed, classes
        self.ways: list[v2.Transform] = []
        if augment.mixup:
            self.ways.append(v2.MixUp(alpha=augment.mixup))
        if augment.cutmix:
            self.ways.append(v2.CutMix(alpha=augment.cutmix))

    def __call__(
        self, inputs: dict[str, Tensor], targets: Tensor, epoch: int, batch: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        if not self.ways:
            return inputs, targets
        soft = targets if targets.is_floating_point() else one_hot(targets, self.classes).float()
        way, seed = words(self.seed, epoch, [batch], "mix", 2)[0].tolist()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of the CPU alone: a GPU's draws dropout
            pixels, mixed = self.ways[way % len(self.ways)](inputs["pixels"], soft.view(len(soft), -1))
        return {**inputs, "pixels": pixels}, mixed.view(soft.shape)
