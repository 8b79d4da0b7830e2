"""Examples -> the network's input tensors, the training library's way. The exported graph is held against this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from tlcompile.artifacts import ImageSpec
from tlcompile.models._network import Network
from tlcompile.runtime.feeds import text_feeder

Batch = tuple[dict[str, Tensor], Tensor]


def evaluation_view(spec: ImageSpec) -> v2.Transform:
    """PIL RGB image -> uint8 [3, S, S]: short side to `resize_to`, centre crop. What the exported graph reproduces."""
    how = v2.InterpolationMode(spec.interpolation)
    return v2.Compose([v2.Resize(spec.resize_to, how), v2.CenterCrop(spec.image_size), v2.PILToTensor()])


class Collate:
    """A list of (example, label) -> (inputs of the network by name, targets int64 [N])."""

    def __init__(self, network: Network) -> None:
        self.spec = network.spec
        if isinstance(network.spec, ImageSpec):
            mean, std = torch.tensor(network.spec.mean), torch.tensor(network.spec.std)
            self.scale, self.shift = 1 / (255 * std), -mean / std
        else:
            assert network.tokenizer is not None
            self.feed = text_feeder(network.tokenizer, network.spec)

    def __call__(self, items: Sequence[tuple[Any, int]]) -> Batch:
        examples, labels = zip(*items, strict=True)
        targets = torch.tensor(labels)
        if isinstance(self.spec, ImageSpec):
            return {"pixels": self.pixels(torch.stack(examples).permute(0, 2, 3, 1))}, targets
        return self.texts(examples), targets

    def pixels(self, batch: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], normalised, channels last in memory."""
        n, height, width, channels = batch.shape
        rows = batch.reshape(n * height, width * channels).float()  # whole rows at once: eight times as quick
        rows.mul_(self.scale.repeat(width)).add_(self.shift.repeat(width))
        return rows.view(batch.shape).permute(0, 3, 1, 2)

    def texts(self, batch: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, int64 [N, L]."""
        return {name: torch.from_numpy(array) for name, array in self.feed(batch).items()}
