"""Examples -> batches of tensors.

Every random choice (order, crop, flip, masked word) is a function of (seed, epoch, index), so it does not depend on the
number of workers or processes, and a resumed run sees what the killed one would have seen. Iterating a loader leaves
torch's own random state alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tlcompile.artifacts import ImageSpec
from tlcompile.models._inputs import Batch, Collate
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import cache
from tlcompile.train.distill import WithAnswers
from tlcompile.train.text_views import TextView, text_view
from tlcompile.train.views import TrainingView

if TYPE_CHECKING:
    from tlcompile.data._split import Split

Key = int | tuple[int, int]  # an index, or (epoch, index)
_SIZE_STEP = 8  # pixels between the sizes of a growing image


class Shuffled(Sampler[tuple[int, int]]):
    """(epoch, index) in an order that `seed` and `epoch` decide, without the first `start`: they are done already."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch, self.start = n, seed, 0, 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """What the next iteration goes through: `epoch`, from its example number `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.n - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        return ((self.epoch, i) for i in order[self.start :].tolist())


class Images(Dataset[Batch]):
    """Batches of pictures: `views[epoch]` (the last one from there on) of each, normalised."""

    def __init__(
        self, pictures: cache.Pictures, labels: np.ndarray, collate: Collate, views: Sequence[TrainingView] = ()
    ) -> None:
        self.pictures, self.labels, self.collate, self.views = pictures, labels, collate, views

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        epoch, indices = _split(keys)
        pictures = [self.pictures[i] for i in indices]
        if self.views:
            batch = self.views[min(epoch, len(self.views) - 1)](pictures, epoch, indices)
        else:
            batch = np.stack(pictures)
        return {"pixels": self.collate.pixels(torch.from_numpy(batch))}, torch.from_numpy(self.labels[indices])


class Texts(Dataset[Batch]):
    """Batches of texts as token ids, through `view` if there is one."""

    def __init__(self, texts: Sequence[Any], labels: np.ndarray, collate: Collate, view: TextView | None) -> None:
        self.texts, self.labels, self.collate, self.view = texts, labels, collate, view

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        epoch, indices = _split(keys)
        texts = [self.texts[i] for i in indices]
        inputs = self.view(texts, epoch, indices) if self.view else self.collate.texts(texts)
        return inputs, torch.from_numpy(self.labels[indices])


def sizes(table: TrainTable, size: int) -> tuple[int, ...]:
    """Pixels of the training images in each epoch: they rise in even steps where `image_size_start` is set.

    Small images first cost less and lose little (M. Tan and Q. Le, "EfficientNetV2", ICML 2021, section 4).
    """
    start = table.image_size_start or size
    steps = np.linspace(start, size, table.epochs)[1:-1]
    between = [round(float(s) / _SIZE_STEP) * _SIZE_STEP for s in steps]
    return (start, *between, size) if table.epochs > 1 else (size,)


def training_loader(
    split: Split,
    network: Network,
    size: int,
    table: TrainTable,
    batch_size: int,
    seed: int,
    work: Path | None = None,
    answers: np.ndarray | None = None,
) -> tuple[DataLoader[Any], Shuffled]:
    """Shuffled, augmented batches of `batch_size`, one process's share; the last is left out where it is not full.

    What is worth computing once (decoded pictures, translated texts) is kept in `work`. With `answers`, a teacher's row
    for each example, the targets of a batch are (targets, answers).
    """
    order, collate = Shuffled(len(split), seed), Collate(network)
    dataset: Images | Texts | WithAnswers
    if isinstance(network.spec, ImageSpec):
        rising = sizes(table, size)
        fitted = table.augment.crop_scale_min == 1 and len(set(rising)) == 1
        pictures = _pictures(split, network.spec, size if fitted else 0, table, work if table.epochs > 1 else None)
        views = [TrainingView(network.spec, s, table.augment, seed, fitted) for s in rising]
        dataset = Images(pictures, split.labels, collate, views)
    else:
        view = text_view(network, table.augment, seed, split, work)
        dataset = Texts(split, split.labels, collate, view)
    if answers is not None:
        dataset = WithAnswers(dataset, answers)
    loader = _loader(dataset, batch_size, table.workers, sampler=order, drop_last=len(split) >= batch_size)
    return loader, order


def evaluation_loader(
    split: Split, network: Network, batch_size: int, table: TrainTable | None = None, work: Path | None = None
) -> DataLoader[Any]:
    """Batches in order, through the evaluation view. With a `table` its workers are used, with `work` its cache."""
    collate = Collate(network)
    dataset: Images | Texts
    if isinstance(network.spec, ImageSpec):
        pictures = _pictures(split, network.spec, network.spec.image_size, table, work)
        dataset = Images(pictures, split.labels, collate)
    else:
        dataset = Texts(split, split.labels, collate, None)
    return _loader(dataset, batch_size, table.workers if table else 0)


def _pictures(split: Any, spec: ImageSpec, size: int, table: TrainTable | None, work: Path | None) -> cache.Pictures:
    """The pictures of `split`, fitted to `size` unless that is 0; out of a file in `work` where they may be kept."""
    pictures: cache.Pictures = cache.Fitted(split, spec, size) if size else split
    if table is None or work is None:
        return pictures
    how = (size, spec.crop_pct, spec.interpolation) if size else ()
    return cache.keep(pictures, work, split.name, (split.identity, *how), table.cache_mib)


def _loader(dataset: Images | Texts | WithAnswers, batch_size: int, workers: int, **order: Any) -> DataLoader[Any]:
    """`dataset` makes whole batches itself. Its own generator: the loader draws a number from it for each iteration."""
    return DataLoader(
        dataset,
        batch_size,
        collate_fn=_whole,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),
        **order,
    )


def _whole(batch: Any) -> Any:
    return batch


def _split(keys: Sequence[Key]) -> tuple[int, list[int]]:
    """(epoch, indices) of one batch; epoch 0 where the keys are indices alone."""
    pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
    return pairs[0][0], [index for _, index in pairs]
