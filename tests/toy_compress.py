"""What a pass over a trained network is handed, without a recipe and a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.toy_training import job, run
from tlcompile import train
from tlcompile.artifacts import Checkpoint, Lesson, Splits
from tlcompile.compress import Context
from tlcompile.models._restore import restore
from tlcompile.train import Job


def trained(splits: Path, root: Path, **table: object) -> tuple[Job, Checkpoint]:
    """(job, its Checkpoint) of the tiny network of `toy_training`."""
    asked = job(splits, **table)
    return asked, Checkpoint(run(asked, root), "digest")


def context(asked: Job, checkpoint: Checkpoint, work: Path, dialects: tuple[str, ...] = ()) -> Context:
    """As the stage makes it, but for the latency: that is not measured."""

    def train_again(
        start: Path,
        overrides: Mapping[str, Any],
        folder: Path,
        work: Path,
        teacher: Lesson | None = None,
        dress: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        for place in (folder, work):
            place.mkdir(parents=True, exist_ok=True)
        keys = {**asked.table.model_dump(mode="json"), **overrides}
        table = asked.table.model_validate(keys, context={"base": asked.base})
        train.run(replace(asked, table=table, start=start, teacher=teacher, dress=dress or {}), folder, work)

    work.mkdir(parents=True, exist_ok=True)
    model = asked.model
    return Context(
        checkpoint,
        Splits(asked.splits, "digest"),
        lambda: restore(checkpoint.folder, model.module, model.options),
        train_again,
        lambda network: {},
        work,
        dialects,
    )
