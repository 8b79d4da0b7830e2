"""Training runs of seconds: a tiny network on dark and light pictures."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import MODEL, folder
from tlcompile import train
from tlcompile.data import prepare
from tlcompile.models import timm
from tlcompile.recipe.tables import DataTable, Plugin
from tlcompile.recipe.train_table import AugmentTable, TrainTable
from tlcompile.train import Job


def splits_folder(root: Path) -> Path:
    from tlcompile.data import folder as source

    options = source.Options.model_validate({"path": str(folder(root / "data"))}, context={"base": root})
    table = DataTable(task="image-classification", source="folder", calibration=8)
    (root / "splits").mkdir()
    prepare(source, options, table, "image", 17, root / "splits")
    return root / "splits"


def job(splits: Path, **table: object) -> Job:
    options = timm.Options.model_validate({k: v for k, v in MODEL.items() if k != "library"})
    values = TrainTable(**{"epochs": 3, "batch_size": 8, "augment": AugmentTable(hflip=True), **table})
    return Job("image-classification", Plugin("models", "timm", options), values, 17, splits, ("dark", "light"), splits)


def run(job: Job, root: Path) -> Path:
    for name in ("out", "work"):
        (root / name).mkdir(parents=True, exist_ok=True)
    train.run(job, root / "out", root / "work")
    return root / "out"
