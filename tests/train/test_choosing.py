"""Which weights a run keeps, and when it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from tests.toy_training import job, run
from tlcompile.data._split import Split
from tlcompile.recipe.train_table import AugmentTable, TrainTable
from tlcompile.train import averaging, select
from tlcompile.train.batches import training_loader
from tlcompile.train.choosing import Choice, best


def facts(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return json.loads((out / "applied.json").read_text()), json.loads((out / "history.json").read_text())


def test_the_best_epoch_is_the_first_with_the_lowest_validation_loss() -> None:
    assert best([{"val_loss": v} for v in (0.5, 0.3, 0.4, 0.3)]) == 1


def test_early_stopping_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    choice = Choice(TrainTable(early_stopping=2), tmp_path)
    losses = [0.5, 0.4, 0.45, 0.41, 0.3]
    stops = [choice.stop([{"val_loss": v} for v in losses[: i + 1]]) for i in range(len(losses))]
    assert stops == [False, False, False, True, False]


def test_a_run_that_gets_no_better_ends_early_and_says_that_validation_was_used(splits: Path, tmp_path: Path) -> None:
    applied, history = facts(run(job(splits, epochs=30, early_stopping=1, lr=1e-6, schedule="constant"), tmp_path))
    assert 2 <= len(history) < 30
    assert applied["notes"][0] == "the validation split was used for early stopping: its figures lean to the good side"


@pytest.mark.parametrize("how", [{"keep": "best"}, {"keep": "soup"}, {"average_last": 2}, {"ema_decay": 0.8}])
def test_what_is_kept_is_said_and_is_not_the_last(splits: Path, tmp_path: Path, how: dict[str, object]) -> None:
    out = run(job(splits, epochs=4, lr=0.02, schedule="constant", **how), tmp_path)
    applied, history = facts(out)
    last = run(job(splits, epochs=4, lr=0.02, schedule="constant"), tmp_path / "last")
    kept, plain = (load_file(folder / "model.safetensors")["classifier.weight"].numpy() for folder in (out, last))
    said = applied["weights"]
    if how.get("keep") == "best":
        assert said == f"epoch {best(history) + 1} of 4, with the lowest validation loss"
        assert np.array_equal(kept, plain) == (best(history) == 3)
    elif how.get("keep") == "soup":
        assert said.startswith("the mean of the weights after epochs")
    else:
        assert "last 2 epochs" in said or "decay 0.8" in said
        assert not np.array_equal(kept, plain)


def loss_of(out: Path) -> float:
    """Cross-entropy on validation of what was kept."""
    with np.load(out / "reference.npz") as found:
        logits, labels = torch.from_numpy(found["val_logits"]), torch.from_numpy(found["val_labels"])
    return float(cross_entropy(logits, labels))


def test_schedule_free_is_validated_with_norms_that_fit_its_average(splits: Path, tmp_path: Path) -> None:
    how = {"optimizer": "schedulefree", "lr": 0.05, "epochs": 2}
    out = run(job(splits, **how), tmp_path)
    _, history = facts(out)
    assert history[-1]["val_loss"] == pytest.approx(loss_of(out), rel=1e-4)


@pytest.mark.parametrize("trainable", ["last:2", "gradual", "all"])
def test_norms_that_learn_fit_the_averaged_weights_and_others_keep_theirs(
    splits: Path, tmp_path: Path, trainable: str
) -> None:
    asked = job(splits, epochs=3, average_last=2, lr=0.02, trainable=trainable, augment=AugmentTable())
    network = asked.network()
    start = {name: value.clone() for name, value in network.module.state_dict().items()}
    kept = load_file(run(asked, tmp_path) / "model.safetensors")
    network.module.load_state_dict(kept)
    select.reopen(network, asked.table)
    select.train_mode(network, asked.table)
    learning = {id(norm) for norm in averaging.learning_norms(network.module)}
    loader, order = training_loader(Split(splits, "train"), network, 32, asked.table, 8, asked.seed)
    order.begin(3)
    averaging.recalibrate(network.module, loader)
    norms = {name: m for name, m in network.module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert 0 < len(learning) <= len(norms)
    assert (len(learning) < len(norms)) == (trainable == "last:2")
    for name, norm in norms.items():
        expected = norm.running_mean if id(norm) in learning else start[f"{name}.running_mean"]
        torch.testing.assert_close(kept[f"{name}.running_mean"], expected, rtol=1e-4, atol=1e-5)


def test_retrained_on_everything_there_is_no_validation_figure(splits: Path, tmp_path: Path) -> None:
    plain, _ = facts(run(job(splits, epochs=1), tmp_path / "plain"))
    out = run(job(splits, epochs=1, retrain_full=True), tmp_path / "full")
    applied, history = facts(out)
    assert applied["steps"] > plain["steps"]
    assert history[0]["val_loss"] is None
    assert "there is no validation figure" in applied["notes"][0]
    with np.load(out / "reference.npz") as reference:
        assert sorted(reference) == ["test_labels", "test_logits"]


@pytest.mark.parametrize(
    "table",
    [
        {"retrain_full": True, "early_stopping": 1},
        {"retrain_full": True, "keep": "best"},
        {"retrain_full": True, "schedule": "plateau"},
        {"ema_decay": 0.9, "keep": "soup"},
        {"average_last": 2, "keep": "best"},
        {"average_last": 2, "early_stopping": 1},
        {"epochs": 2, "average_last": 3},
        {"epochs": 2, "schedule": "step", "step_epochs": 2},
        {"epochs": 1, "trainable": "gradual"},
    ],
)
def test_what_can_not_both_be_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainTable(**table)
