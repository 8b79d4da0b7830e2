"""The mean of the weights of several trained networks of one architecture: what they learnt at the cost of one.

Greedy (M. Wortsman et al., "Model soups", ICML 2022, algorithm 1): the best network on validation first, each next one
stays where the mean with it scores at least as high. Batch norms take statistics that fit the mean.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tlcompile import registry
from tlcompile.artifacts import ImageSpec, read_json, write_json
from tlcompile.data._split import Split
from tlcompile.models._network import Network
from tlcompile.train import averaging, reference, select
from tlcompile.train.batches import training_loader
from tlcompile.train.job import Job


def write(job: Job, members: Sequence[Path], folder: Path) -> None:
    """Fill `folder` with the Checkpoint of the soup of the Checkpoints `members`."""
    splits = {name: Split(job.splits, name) for name in ("train", "val", "test")}
    network = job.restored(members[0])
    task = registry.load("tasks", job.task)
    truth = torch.from_numpy(np.asarray(splits["val"].labels))

    def score(state: dict[str, Tensor]) -> float:
        put(job, network, state, splits["train"])
        found = torch.from_numpy(reference.logits(network, splits["val"], label="soup val"))
        return float(task.score(found, truth).double().mean())

    states = [load_file(place / "model.safetensors") for place in members]
    alone = [_score_of(place, task) for place in members]
    order = sorted(range(len(states)), key=lambda i: -alone[i])
    mean, chosen = averaging.soup(states, order, score)
    put(job, network, mean, splits["train"])
    _save(network, members, chosen, folder)
    found = {}
    for name in ("val", "test"):
        found[f"{name}_logits"] = reference.logits(network, splits[name], label=f"reference {name}")
        found[f"{name}_labels"] = np.asarray(splits[name].labels)
    np.savez(folder / "reference.npz", allow_pickle=False, **found)


def put(job: Job, network: Network, state: dict[str, Tensor], train: Split) -> None:
    """`state` into the network; batch norms that learnt forget what they saw and see the training examples once."""
    network.module.load_state_dict(state)
    select.reopen(network, job.table)
    select.train_mode(network, job.table)
    if averaging.learning_norms(network.module):
        size = (job.table.image_size or network.spec.image_size) if isinstance(network.spec, ImageSpec) else 0
        batch = job.table.batch_size if isinstance(job.table.batch_size, int) else 32
        loader, order = training_loader(train, network, size, job.table, min(batch, len(train)), job.seed)
        order.begin(job.table.epochs)
        averaging.recalibrate(network.module, loader)


def _score_of(place: Path, task: object) -> float:
    with np.load(place / "reference.npz", allow_pickle=False) as found:
        logits, truth = torch.from_numpy(found["val_logits"]), torch.from_numpy(found["val_labels"])
    return float(task.score(logits, truth).double().mean())  # type: ignore[attr-defined]


def _save(network: Network, members: Sequence[Path], chosen: Sequence[int], folder: Path) -> None:
    state = {k: v.detach().cpu().contiguous() for k, v in network.module.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    for name in ("network.json", "history.json", "tokenizer.json"):
        if (members[0] / name).exists():
            shutil.copyfile(members[0] / name, folder / name)
    told = f"the mean of the weights of {len(chosen)} of {len(members)} members, chosen on validation"
    write_json(folder / "applied.json", {**read_json(members[0] / "applied.json"), "kept": told})
