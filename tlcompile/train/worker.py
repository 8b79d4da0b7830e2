"""One training process, or all there is: `train`, or `python -m tlcompile.train.worker JOB.json FOLDER WORK`.

The latter is what `accelerate launch --module` starts on several machines, and, with a folder ERRORS as a fourth
argument, what runs under torch's launcher where the recipe asks for several processes: what is wrong is then written
there, for a launcher tells of a failed process in its own way.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from tlcompile import progress, registry, tasks
from tlcompile.artifacts import ImageSpec, read_json, write_json
from tlcompile.data._joined import Joined
from tlcompile.data._split import Split
from tlcompile.errors import Problem, RecipeError, TlcompileError
from tlcompile.models import _fits
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import features, machine, reference
from tlcompile.train.job import Job
from tlcompile.train.loop import Trainer
from tlcompile.train.trackers import LOG


def train(job: Job, folder: Path, work: Path) -> None:
    """Fill `folder` with the Checkpoint of `job` (the main process does)."""
    machine.keep_freed_memory()
    network = job.network()
    splits = {name: Split(job.splits, name) for name in ("train", "val", "test")}
    learnt, held_out = examples(job, splits, work)
    check(job, len(learnt))
    check_sizes(network, job.table)
    try:
        trained = network if isinstance(learnt, Split) else features.head_network(network)
        trainer = Trainer(job, trained, learnt, held_out, work)
        applied = trainer.fit()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        what = f"a batch of {job.table.batch_size} does not fit into memory; lower train.batch_size or train.image_size"
        raise TlcompileError(Problem("train.batch_size", what)) from error
    if isinstance(learnt, Split):
        network = trainer.network
    network.module.to(trainer.accelerator.device)
    if trainer.accelerator.is_main_process:
        machine.take_cores_of_others(trainer.accelerator.device)
        write(job, network, splits, trainer, applied, folder)


def examples(
    job: Job, splits: dict[str, Split], work: Path
) -> tuple[Split | features.Rows, Split | features.Rows | None]:
    """(what is learnt from, what is held out and may choose): pictures or texts, or features for a head alone."""
    train, val = splits["train"], splits["val"]
    full = job.table.retrain_full
    if job.table.trainable != "head":
        return (Joined(train, val), None) if full else (train, val)
    folder = job.features or work / "features"
    if not (folder / "val.npy").exists():
        folder.mkdir(exist_ok=True)
        features.write(job, folder)
    return features.rows(folder, *((train, val) if full else (train,))), None if full else features.rows(folder, val)


def check(job: Job, examples: int) -> None:
    """RecipeError with all that does not fit the data."""
    problems = tasks.check(job.table, registry.load("tasks", job.task), len(job.classes))
    if isinstance(job.table.batch_size, int) and job.table.batch_size > examples:
        what = f"{job.table.batch_size} is more than the {examples} training examples"
        problems.append(Problem("train.batch_size", what))
    if problems:
        raise RecipeError(*problems)


def check_sizes(network: Network, table: TrainTable) -> None:
    """RecipeError where the network can't run on the pixels that it is to learn from; a ViT takes one size."""
    if isinstance(network.spec, ImageSpec):
        for key in ("image_size", "image_size_start"):
            if size := getattr(table, key):
                _fits.check_size(network.module, size, where=f"train.{key}")


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def write(
    job: Job, network: Network, splits: dict[str, Split], trainer: Trainer, applied: dict[str, object], folder: Path
) -> None:
    """The Checkpoint folder."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.module.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    spec = network.spec
    kind = "image" if isinstance(spec, ImageSpec) else "text"
    about = {**job.to_json(), "kind": kind, "spec": vars(spec), "head": list(network.head)}
    places = ("splits", "base", *job.optional_paths())  # of this machine: equal training makes equal files
    write_json(folder / "network.json", {k: v for k, v in about.items() if k not in places})
    write_json(folder / "applied.json", applied)
    write_json(folder / "history.json", trainer.history)
    shutil.copyfile(trainer.work / LOG, folder / LOG)
    seen = job.features or trainer.work / "features" if job.table.trainable == "head" else trainer.work
    shutil.copytree(seen / "samples", folder / "samples", dirs_exist_ok=True)
    if (trainer.work / "found.json").exists():
        shutil.copyfile(trainer.work / "found.json", folder / "found.json")
    if network.tokenizer is not None:
        (folder / "tokenizer.json").write_text(network.tokenizer, encoding="utf-8")
    found = {}
    for name in ("test",) if job.table.retrain_full else ("val", "test"):
        found[f"{name}_logits"] = reference.logits(network, splits[name], label=f"reference {name}")
        found[f"{name}_labels"] = np.asarray(splits[name].labels)
    np.savez(folder / "reference.npz", allow_pickle=False, **found)


def main(job: Path, folder: Path, work: Path, errors: Path | None = None) -> None:
    rank = os.environ.get("RANK", "0")
    progress.quiet = rank != "0"
    try:
        train(Job.from_json(read_json(job)), folder, work)
    except TlcompileError as error:
        if errors is None:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        problems = [vars(problem) for problem in error.problems]
        write_json(errors / f"{rank}.json", {"kind": type(error).__name__, "problems": problems})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
