"""`trainable = "head"`: what the frozen body says of each example is computed once, and the head is trained on that.

An epoch then costs the head alone. The features of an example are the vector that the first layer of the head is fed
for it, through the evaluation view: an augmented view would have other features in each epoch. `compute` keeps them as
a mapped float32 file [n, D], and `head_network` is what they are fed to.

In a build this is the step "features" (`write`). What it saves is measured as `head_only_speedup` in
`benchmarks/train_throughput.py`: the seconds of an epoch of a network with a frozen body over those of an epoch of
`head_network(network)` on `Rows`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tlcompile import progress
from tlcompile.models._inputs import Batch
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import batches, samples
from tlcompile.train.batches import Shuffled
from tlcompile.train.behind import entrances, fed, head_network, require
from tlcompile.train.distill import WithAnswers
from tlcompile.train.job import Job

if TYPE_CHECKING:
    from tlcompile.data._split import Split

__all__ = ["Rows", "compute", "evaluation_loader", "fed_to", "head_network", "rows", "training_loader", "write"]

BATCH = 64


def write(job: Job, folder: Path) -> None:
    """`train.npy` and `val.npy` of `job` in `folder`, and in `samples` what the body was fed."""
    from tlcompile.data._split import Split

    network = job.network()
    if torch.cuda.is_available():
        network.module.cuda()
    splits = [Split(job.splits, name) for name in ("train", "val")]
    inputs, targets = next(iter(batches.evaluation_loader(splits[0], network, BATCH)))
    (folder / "samples").mkdir(exist_ok=True)
    samples.save(inputs, targets, job.classes, network.spec, folder / "samples", tokenizer=network.tokenizer)
    for split in splits:
        compute(network, split, BATCH, folder / f"{split.name}.npy")


def compute(network: Network, split: Split, batch_size: int, path: Path) -> np.ndarray:
    """Write the features of `split` to `path`, which is there whole or not at all; the file, mapped: float32 [n, D].

    RecipeError where the head is not fed one vector an example, or where, fed with the vectors of the first batch, it
    does not answer what the whole network answers.
    """
    rest = head_network(network).module
    unfinished = path.with_suffix(".unfinished")
    file: np.ndarray | None = None
    done = 0
    for found, logits in fed_to(network, entrances(network, rest), split, batch_size):
        if file is None:
            require(network, rest, found, logits)
            file = np.lib.format.open_memmap(unfinished, "w+", np.float32, (len(split), found.shape[1]))
        file[done : done + len(found)] = found.float().cpu().numpy()
        done += len(found)
    if isinstance(file, np.memmap):
        file.flush()
    os.replace(unfinished, path)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def fed_to(
    network: Network, layers: Sequence[nn.Module], split: Split, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(what the first of `layers` that is called is fed, the logits) for each batch, through the evaluation view."""
    network.module.eval()
    device = next(network.module.parameters()).device
    with progress.bar("features", len(split)) as bar:
        for inputs, targets in batches.evaluation_loader(split, network, batch_size):
            yield fed(network.module, layers, [value.to(device) for value in inputs.values()])
            bar.step(len(targets))


class Rows(Dataset[Batch]):
    """Features as examples of a split: batches of ({"features": float32 [N, D]}, targets)."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> Batch:
        """Of the examples at `keys`, each an index or (epoch, index)."""
        indices = [key[1] if isinstance(key, tuple) else key for key in keys]
        return {"features": torch.from_numpy(self.features[indices])}, torch.from_numpy(self.labels[indices])


def rows(folder: Path, *splits: Split) -> Rows:
    """What `write` left in `folder` of `splits`: one split's file is mapped, those of several are joined in memory."""
    found = [np.load(folder / f"{split.name}.npy", mmap_mode="r", allow_pickle=False) for split in splits]
    labels = [split.labels for split in splits]
    return Rows(found[0], labels[0]) if len(splits) == 1 else Rows(np.concatenate(found), np.concatenate(labels))


def training_loader(
    examples: Split | Rows,
    network: Network,
    size: int,
    table: TrainTable,
    batch_size: int,
    seed: int,
    work: Path | None = None,
    answers: np.ndarray | None = None,
) -> tuple[DataLoader[Any], Shuffled]:
    """`batches.training_loader`, of features as well: in the same order, the last batch left out where not full."""
    if not isinstance(examples, Rows):
        return batches.training_loader(examples, network, size, table, batch_size, seed, work, answers)
    order = batches.Shuffled(len(examples), seed)
    dataset = examples if answers is None else WithAnswers(examples, answers)
    return _loader(dataset, batch_size, sampler=order, drop_last=len(examples) >= batch_size), order


def evaluation_loader(
    examples: Split | Rows, network: Network, batch_size: int, table: TrainTable | None = None, work: Path | None = None
) -> DataLoader[Any]:
    """`batches.evaluation_loader`, of features as well."""
    if not isinstance(examples, Rows):
        return batches.evaluation_loader(examples, network, batch_size, table, work)
    return _loader(examples, batch_size)


def _loader(examples: Rows | WithAnswers, batch_size: int, **order: Any) -> DataLoader[Any]:
    """No workers: a row is read quicker than handed over. A generator of its own, as each iteration draws from one."""
    return DataLoader(examples, batch_size, collate_fn=_whole, generator=torch.Generator(), **order)


def _whole(batch: Any) -> Any:
    return batch
