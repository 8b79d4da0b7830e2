"""The loop on a tiny real network: it learns, goes on where it was killed, and tells what it applied."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.toy_training import job, run
from tlcompile.errors import RecipeError, TlcompileError
from tlcompile.models import timm
from tlcompile.recipe.tables import Plugin
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train import Job


def test_it_learns_and_writes_what_later_stages_need(splits: Path, tmp_path: Path) -> None:
    out = run(job(splits), tmp_path)
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    applied = json.loads((out / "applied.json").read_text())
    assert (applied["optimizer"], applied["epochs"], applied["batch_size"], applied["precision"]) == (
        "adamw",
        3,
        8,
        "fp32",
    )
    assert applied["groups"][0]["last_lr"] == pytest.approx(0, abs=1e-9)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line and "epoch" not in line] == [*range(1, applied["steps"] + 1)]
    assert (out / "samples" / "views.png").stat().st_size > 1000
    with np.load(out / "reference.npz") as reference:
        assert reference["test_logits"].shape == (len(reference["test_labels"]), 2)


def killed(asked: Job, root: Path, at: str) -> Path:
    """A run in a process of its own, killed when its checkpoint `at` (or a later one) is there."""
    for name in ("out", "work"):
        (root / name).mkdir(parents=True)
    (root / "work" / "job.json").write_text(json.dumps(asked.to_json()))
    arguments = [str(root / p) for p in ("work/job.json", "out", "work")]
    child = subprocess.Popen([sys.executable, "-m", "tlcompile.train.worker", *arguments], stderr=subprocess.DEVNULL)
    while not any(folder.name >= at for folder in (root / "work").glob("at-*")):
        assert child.poll() is None, "training ended before it could be killed"
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return root


@pytest.mark.parametrize(
    ("at", "how"),
    [
        ("at-0001-000000", {}),
        ("at-0000-000002", {"ema_decay": 0.9, "accumulate": 2}),
        (
            "at-0001-000003",
            {"optimizer": "muon", "schedule": "one-cycle", "augment": AugmentTable(mixup=0.2, crop_scale_min=0.5)},
        ),
        ("at-0001-000002", {"optimizer": "schedulefree", "keep": "best"}),
    ],
    ids=["between epochs", "accumulated, averaged", "muon, mixed", "schedule-free"],
)
def test_killed_and_resumed_equals_never_killed_bit_for_bit(
    splits: Path, tmp_path: Path, at: str, how: dict[str, object]
) -> None:
    asked = job(splits, save_every_s=1e-6, **how)
    whole = run(asked, tmp_path / "whole")
    resumed = run(asked, killed(asked, tmp_path / "killed", at))
    a, b = (load_file(out / "model.safetensors") for out in (whole, resumed))
    assert all(np.array_equal(a[k].numpy(), b[k].numpy()) for k in a)
    figures = ("train_loss", "train_accuracy", "val_loss", "lr")
    histories = [json.loads((out / "history.json").read_text()) for out in (whole, resumed)]
    assert [[row[k] for k in figures] for row in histories[0]] == [[row[k] for k in figures] for row in histories[1]]
    logs = [(out / "log.jsonl").read_text().splitlines() for out in (whole, resumed)]
    steps = [[json.loads(line)["step"] for line in log] for log in logs]
    assert steps[0] == steps[1]


def test_a_checkpoint_of_another_recipe_is_refused(splits: Path, tmp_path: Path) -> None:
    root = killed(job(splits, save_every_s=1e-6), tmp_path, "at-0000-000001")
    with pytest.raises(RecipeError, match=r"checkpoint of another recipe: train\.lr 'auto' there, 0\.5 here"):
        run(job(splits, lr=0.5), root)


@pytest.mark.parametrize(
    ("trainable", "augment"),
    [("all", AugmentTable(mixup=0.4, cutmix=1.0, crop_scale_min=0.5)), ("gradual", AugmentTable())],
    ids=["all, mixed", "gradual"],
)
def test_two_processes_give_what_one_does(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: str, augment: AugmentTable
) -> None:
    how = {
        "epochs": 2,
        "trainable": trainable,
        "freeze_norm": True,
        "optimizer": "sgd",
        "lr": 0.01,
        "augment": augment,
    }
    one = run(job(splits, **how), tmp_path / "one")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    two = run(job(splits, processes=2, **how), tmp_path / "two")
    assert list((tmp_path / "temporary").iterdir()) == []
    applied = json.loads((two / "applied.json").read_text())
    assert (applied["processes"], applied["batch_size"]) == (2, 8)
    a, b = (load_file(out / "model.safetensors") for out in (one, two))
    assert all(np.allclose(a[k].numpy(), b[k].numpy(), atol=1e-5) for k in a)
    losses = [[row["train_loss"] for row in json.loads((out / "history.json").read_text())] for out in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_what_is_wrong_in_two_processes_is_told_as_in_one(
    splits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError, match=r"train\.trainable: found 'last:99', the network has \d+ blocks"):
        run(job(splits, processes=2, trainable="last:99"), tmp_path)
    assert "Traceback" not in capfd.readouterr().err


def test_one_process_trains_in_one_precision_after_another(splits: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16", "fp32"):
        out = run(job(splits, epochs=1, precision=precision), tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}")
        assert json.loads((out / "applied.json").read_text())["precision"] == precision


def test_a_batch_larger_than_the_data_is_refused(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.batch_size: 1000 is more than the \d+ training examples"):
        run(job(splits, batch_size=1000), tmp_path)


def test_a_loss_that_becomes_nan_stops_with_a_sentence(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(TlcompileError, match=r"the loss of step \d became NaN.*first at '.+bad_batch\.safetensors"):
        run(job(splits, lr=1e30, clip_norm=1e30), tmp_path)


def test_a_size_that_a_network_with_positions_can_not_take_is_said_before_training(
    splits: Path, tmp_path: Path
) -> None:
    asked = job(splits, epochs=2, image_size_start=16)
    options = timm.Options(name="vit_tiny_patch16_224", weights="none", image_size=32)
    with pytest.raises(RecipeError, match=r"train\.image_size_start: the network can't run on 16 × 16 pixels"):
        run(replace(asked, model=Plugin("models", "timm", options)), tmp_path)


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


def test_memory_does_not_grow_over_epochs(splits: Path, tmp_path: Path) -> None:
    history = json.loads((run(job(splits, epochs=8), tmp_path) / "history.json").read_text())
    assert history[-1]["peak_rss_mib"] <= 1.03 * history[1]["peak_rss_mib"]


def test_accumulated_batches_make_one_step(splits: Path, tmp_path: Path) -> None:
    applied = json.loads((run(job(splits, epochs=2, accumulate=2), tmp_path) / "applied.json").read_text())
    plain = json.loads((run(job(splits, epochs=2), tmp_path / "plain") / "applied.json").read_text())
    assert applied["accumulate"] == 2
    assert applied["steps"] == 2 * -(-(plain["steps"] // 2) // 2)


def test_gradient_checkpointing_changes_no_number(splits: Path, tmp_path: Path) -> None:
    plain = load_file(run(job(splits, epochs=1), tmp_path / "plain") / "model.safetensors")
    saved = load_file(run(job(splits, epochs=1, gradient_checkpointing=True), tmp_path / "saved") / "model.safetensors")
    assert all(
        np.allclose(plain[k].numpy(), saved[k].numpy(), atol=1e-5)
        for k in plain
        if "running" not in k and "num_" not in k
    )


@pytest.mark.parametrize("how", ["head", "last:2", "gradual", "lora"])
def test_only_what_is_selected_moves_and_the_network_keeps_its_names(splits: Path, tmp_path: Path, how: str) -> None:
    table = {"epochs": 3, "trainable": how, "augment": AugmentTable(), "lora": {"layers": ("conv_pw",), "rank": 2}}
    out = run(job(splits, **table), tmp_path)
    start = {k: v.numpy() for k, v in job(splits).network().module.state_dict().items()}
    end = {k: v.numpy() for k, v in load_file(out / "model.safetensors").items()}
    assert start.keys() == end.keys()
    moved = {k for k in end if not np.array_equal(start[k], end[k])}
    assert "classifier.weight" in moved
    weights = {k for k in moved if k.endswith("weight") and not k.startswith("classifier")}
    if how == "head":
        assert weights == set()
        assert not any("running" in k for k in moved)
    elif how == "last:2":
        assert "conv_stem.weight" not in weights
        assert weights
    elif how == "gradual":
        assert "conv_stem.weight" in weights
    else:
        assert weights
        assert all("conv_pw." in k for k in weights)
