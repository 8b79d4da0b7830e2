"""The loop on a tiny real network: it learns, goes on where it was killed, and tells what it applied."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.tiny import MODEL, folder
from tlcompile import train
from tlcompile.data import prepare
from tlcompile.errors import RecipeError, TlcompileError
from tlcompile.models import timm
from tlcompile.recipe.tables import AugmentTable, DataTable, Plugin, TrainTable
from tlcompile.train import Job
from tlcompile.train.applied import compare


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tlcompile.data import folder as source

    root = tmp_path_factory.mktemp("train")
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


def test_it_learns_and_writes_what_later_stages_need(splits: Path, tmp_path: Path) -> None:
    out = run(job(splits), tmp_path)
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    applied = json.loads((out / "applied.json").read_text())
    assert (applied["optimizer"], applied["epochs"], applied["batch_size"], applied["precision"]) == (
        "AdamW",
        3,
        8,
        "fp32",
    )
    assert applied["groups"][0]["last_lr"] == pytest.approx(0, abs=1e-9)
    with np.load(out / "reference.npz") as reference:
        assert reference["test_logits"].shape == (len(reference["test_labels"]), 2)


@pytest.mark.parametrize("kill_after_epoch", [1, 2])
def test_killed_and_resumed_equals_never_killed_bit_for_bit(
    splits: Path, tmp_path: Path, kill_after_epoch: int
) -> None:
    whole = load_file(run(job(splits), tmp_path / "whole") / "model.safetensors")
    killed = tmp_path / "killed"
    for name in ("out", "work"):
        (killed / name).mkdir(parents=True)
    (killed / "work" / "job.json").write_text(json.dumps(job(splits).to_json()))
    arguments = [str(killed / p) for p in ("work/job.json", "out", "work")]
    child = subprocess.Popen([sys.executable, "-m", "tlcompile.train.worker", *arguments], stderr=subprocess.DEVNULL)
    while not (killed / "work" / f"epoch-{kill_after_epoch}").exists():
        assert child.poll() is None, "training ended before it could be killed"
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    resumed = load_file(run(job(splits), killed) / "model.safetensors")
    assert all(np.array_equal(whole[k].numpy(), resumed[k].numpy()) for k in whole)


def test_two_processes_share_each_batch_and_learn(splits: Path, tmp_path: Path) -> None:
    out = run(job(splits, epochs=2, processes=2), tmp_path)
    applied = json.loads((out / "applied.json").read_text())
    assert (applied["processes"], applied["batch_size"]) == (2, 8)
    history = json.loads((out / "history.json").read_text())
    assert history[1]["train_loss"] < history[0]["train_loss"]


def test_a_batch_larger_than_the_data_is_refused(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.batch_size: 1000 is more than the \d+ training examples"):
        run(job(splits, batch_size=1000), tmp_path)


def test_a_loss_that_becomes_nan_stops_with_a_sentence(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(TlcompileError, match="the loss became NaN"):
        run(job(splits, lr=1e30, clip_norm=1e30), tmp_path)


def test_a_hyper_parameter_that_got_lost_fails_the_build(splits: Path, tmp_path: Path) -> None:
    applied = json.loads((run(job(splits, epochs=1), tmp_path) / "applied.json").read_text())
    compare(applied, TrainTable(epochs=1, batch_size=8))
    with pytest.raises(TlcompileError) as caught:
        compare(applied, TrainTable(epochs=1, batch_size=8, lr=0.5, weight_decay=0.3))
    assert "train.lr of body_decay: the recipe says 0.5, training applied 0.001" in str(caught.value)
    assert "train.weight_decay of body_decay" in str(caught.value)


def test_a_head_start_separates_the_classes_before_the_first_epoch(splits: Path, tmp_path: Path) -> None:
    plain = json.loads((run(job(splits, epochs=1, freeze_norm=True), tmp_path / "plain") / "history.json").read_text())
    started = job(splits, epochs=1, freeze_norm=True, head_start=True)
    warm = json.loads((run(started, tmp_path / "warm") / "history.json").read_text())
    assert warm[0]["train_loss"] < 0.5 * plain[0]["train_loss"]


def test_frozen_norms_keep_their_statistics(splits: Path, tmp_path: Path) -> None:
    state = load_file(run(job(splits, epochs=1, freeze_norm=True), tmp_path) / "model.safetensors")
    means = [v for k, v in state.items() if k.endswith("running_mean")]
    assert means
    assert all(not v.any() for v in means)
