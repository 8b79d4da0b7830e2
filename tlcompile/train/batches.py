"""Examples -> batches of tensors.

Every random choice (order, crop, flip) is a function of (seed, epoch, index), so it does not depend on the number of
workers or processes, and a resumed run sees what the killed one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from tlcompile.artifacts import ImageSpec
from tlcompile.models._inputs import Collate, evaluation_view
from tlcompile.models._network import Network
from tlcompile.recipe.tables import AugmentTable, TrainTable

if TYPE_CHECKING:
    from tlcompile.data._split import Split


def training_view(spec: ImageSpec, size: int, augment: AugmentTable) -> v2.Transform:
    """PIL RGB image -> uint8 [3, size, size], with the random views of `augment`."""
    how = v2.InterpolationMode(spec.interpolation)
    steps: list[v2.Transform] = []
    if augment.crop_scale_min < 1:
        steps.append(v2.RandomResizedCrop(size, (augment.crop_scale_min, 1.0), interpolation=how))
    else:
        steps += [v2.Resize(int(size / spec.crop_pct), how), v2.CenterCrop(size)]
    if augment.hflip:
        steps.append(v2.RandomHorizontalFlip())
    if augment.shift_px:
        steps.append(v2.RandomCrop(size, padding=augment.shift_px, padding_mode="reflect"))
    return v2.Compose([*steps, v2.PILToTensor()])


class Examples(Dataset[tuple[Any, int]]):
    """A split as a torch dataset: images through `view` (uint8 [3, S, S]), texts as they are."""

    def __init__(self, split: Split, view: v2.Transform | None, seed: int = 0) -> None:
        self.split, self.view, self.seed, self.epoch = split, view, seed, 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Any, int]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        example, label = self.split[index], int(self.split.labels[index])
        if self.view is None or isinstance(example, str):
            return example, label
        from PIL import Image

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)[0].item())
            return self.view(Image.fromarray(example)), label


class Shuffled(Sampler[tuple[int, int]]):
    """(epoch, index) in an order that `seed` and `epoch` decide."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        return ((self.epoch, int(i)) for i in order)


def training_loader(
    split: Split, network: Network, size: int, table: TrainTable, batch_size: int, seed: int
) -> tuple[DataLoader[Any], Shuffled]:
    """Shuffled, augmented batches of `batch_size`, one process's share; the last is left out where it is not full."""
    view = training_view(network.spec, size, table.augment) if isinstance(network.spec, ImageSpec) else None
    order = Shuffled(len(split), seed)
    loader = DataLoader(
        Examples(split, view, seed),
        batch_size,
        sampler=order,
        collate_fn=Collate(network),
        num_workers=table.workers,
        drop_last=len(split) >= batch_size,
        pin_memory=torch.cuda.is_available(),
    )
    return loader, order


def evaluation_loader(split: Split, network: Network, batch_size: int) -> DataLoader[Any]:
    """Batches in order, through the evaluation view."""
    view = evaluation_view(network.spec) if isinstance(network.spec, ImageSpec) else None
    return DataLoader(Examples(split, view), batch_size, collate_fn=Collate(network))
