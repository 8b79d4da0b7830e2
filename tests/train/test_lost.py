"""Every hyper-parameter is read back from what ran, and one that got lost on the way fails the build."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.toy_training import job, run
from tlcompile.errors import TlcompileError
from tlcompile.models import timm
from tlcompile.recipe.tables import Plugin
from tlcompile.recipe.train_table import AugmentTable, LoraTable, TrainTable
from tlcompile.tasks import image_classification
from tlcompile.train import averaging, loop, lora, machine, monitor, optim, select
from tlcompile.train.choosing import Choice
from tlcompile.train.lost import compare


def test_a_hyper_parameter_that_got_lost_fails_the_build(splits: Path, tmp_path: Path) -> None:
    asked = job(splits, epochs=1, schedule="cosine", label_smoothing=0.1)
    applied = json.loads((run(asked, tmp_path) / "applied.json").read_text())
    compare(applied, asked, asked.table)
    changed = {"lr": 0.5, "weight_decay": 0.3, "betas": (0.8, 0.9), "label_smoothing": 0.2, "warmup_share": 0.5}
    with pytest.raises(TlcompileError) as caught:
        compare(applied, asked, asked.table.model_copy(update=changed))
    told = str(caught.value)
    assert "train.lr of body_decay: the recipe says 0.5, training applied 0.001" in told
    for key in ("weight_decay of body_decay", "betas of head_decay", "label_smoothing", "schedule (last share"):
        assert f"train.{key}" in told


def test_gradients_that_were_never_cut_fail_the_build(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    monkeypatch.setattr(
        nn.utils,
        "clip_grad_norm_",
        lambda parameters, limit: nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]),
    )
    with pytest.raises(TlcompileError, match=r"train\.clip_norm: the recipe says 1e-06, training applied \d"):
        run(job(splits, epochs=1, clip_norm=1e-6), tmp_path)


def test_a_view_that_got_lost_fails_the_build(splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tlcompile.train import batches

    real = batches.TrainingView
    monkeypatch.setattr(batches, "TrainingView", lambda spec, s, augment, *rest: real(spec, s, AugmentTable(), *rest))
    with pytest.raises(
        TlcompileError, match=r"train\.augment: the recipe says \{'hflip': True\}, training applied \{\}"
    ):
        run(job(splits, epochs=1), tmp_path)


def test_mixing_that_got_lost_fails_the_build(splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tlcompile.train import loop

    real = loop.Mix
    monkeypatch.setattr(loop, "Mix", lambda augment, classes, seed: real(AugmentTable(), classes, seed))
    with pytest.raises(
        TlcompileError, match=r"train\.augment: the recipe says \{'mixup': 0\.2\}, training applied \{\}"
    ):
        run(job(splits, epochs=1, augment=AugmentTable(mixup=0.2)), tmp_path)


def test_a_schedule_that_never_steps_fails_the_build(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tlcompile.train.schedules import Schedule

    monkeypatch.setattr(Schedule, "_apply", lambda self: None)
    with pytest.raises(TlcompileError, match=r"train\.schedule \(last share of the peak\)"):
        run(job(splits, epochs=1, schedule="cosine"), tmp_path)


def without(**plain: object) -> Callable[[TrainTable], TrainTable]:
    """A table in which keys are what they are by themselves."""
    return lambda table: table.model_copy(update=plain)


def made_without(where: Any, name: str, place: int, **plain: object) -> tuple[Any, str, Any]:
    """The function `name`, whose argument number `place` is a table, blind to keys."""
    real, blind = getattr(where, name), without(**plain)
    return where, name, lambda *given: real(*given[:place], blind(given[place]), *given[place + 1 :])


CONV = LoraTable(rank=2, layers=("conv_pw",))
PLANTED: dict[str, tuple[dict[str, Any], tuple[Any, str, Any], str]] = {
    "trainable": (
        {"trainable": "last:2"},
        (select, "prepare", lambda *_: None),
        r"trainable \(blocks\): the recipe says 2",
    ),
    "gradual": (
        {"trainable": "gradual", "epochs": 2},
        (select, "unfreeze", lambda *_: False),
        r"trainable \(more and more\)",
    ),
    "rank": (
        {"trainable": "lora", "lora": CONV},
        (select.lora, "inject", lambda n, t, real=lora.inject: real(n, t.model_copy(update={"rank": 4}))),
        r"lora\.rank: the recipe says 2, training applied 4",
    ),
    "layer_decay": (
        {"layer_decay": 0.7},
        (select, "rates", lambda *_: {}),
        r"layer_decay: the recipe says 0\.7, training applied 1\.0",
    ),
    "head_lr_scale": (
        {"head_lr_scale": 5.0},
        (select, "rates", lambda *_: {}),
        r"head_lr_scale: the recipe says 5\.0, training applied 1\.0",
    ),
    "head_start": ({"head_start": True}, (loop.Trainer, "head_start", lambda _: None), "head_start"),
    "freeze_norm": ({"freeze_norm": True}, (machine, "freeze_norm", lambda _: None), "freeze_norm"),
    "ema_decay": (
        {"ema_decay": 0.9},
        (averaging.Average, "update_step", lambda *_: None),
        r"ema_decay \(steps averaged\)",
    ),
    "average_last": (
        {"average_last": 1},
        (averaging.Average, "after_epoch", lambda *_: None),
        "average_last: the recipe says 1, training applied 0",
    ),
    "l1": ({"l1": 1e-4}, (optim, "penalty", lambda *_: None), "l1: the recipe says True"),
    "eps": (
        {"eps": 1e-4},
        made_without(optim, "optimizer", 2, eps=1e-8),
        r"eps of body_decay: the recipe says 0\.0001, training applied 1e-08",
    ),
    "nesterov": (
        {"optimizer": "sgd", "nesterov": False},
        made_without(optim, "optimizer", 2, nesterov=True),
        "nesterov of body_decay",
    ),
    "fused": ({}, made_without(optim, "optimizer", 2, fused=False), "fused of body_decay"),
    "focal_gamma": (
        {"loss": "focal", "focal_gamma": 3.0},
        made_without(image_classification, "loss", 1, focal_gamma=2.0),
        r"focal_gamma: the recipe says 3\.0, training applied nothing of it",
    ),
    "class_weights": (
        {"class_weights": (1.0, 3.0)},
        made_without(image_classification, "loss", 1, class_weights="none"),
        r"class_weights: the recipe says \(1\.0, 3\.0\)",
    ),
    "gradient_checkpointing": (
        {"gradient_checkpointing": True},
        (machine, "prepare", lambda *_: None),
        "gradient_checkpointing",
    ),
    "keep": (
        {"keep": "best"},
        (Choice, "final", lambda *_: None),
        "keep: the recipe says best, training applied last",
    ),
    "early_stopping": (
        {"epochs": 4, "early_stopping": 1, "lr": 1e-12},
        (Choice, "stop", lambda *_: False),
        r"early_stopping \(epochs after it was due\): the recipe says 0, training applied [123]",
    ),
    "monitor_gradients": ({}, (monitor.Gradients, "look", lambda _: None), "monitor_gradients: the recipe says True"),
    "channels_last": ({}, (machine, "prepare", lambda *_: None), "channels_last"),
    "image_size": (
        {"image_size": 64},
        (loop, "training_loader", lambda s, n, size, *r, real=loop.training_loader: real(s, n, 32, *r)),
        "image_size: the recipe says 64, training applied 32",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_parameter_that_is_dropped_on_its_way_fails_the_build(
    name: str, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, (where, what, broken), told = PLANTED[name]
    asked = job(splits, **{"epochs": 1, "augment": AugmentTable(), **table})
    monkeypatch.setattr(where, what, broken)
    with pytest.raises(TlcompileError, match=rf"train\.{told}"):
        run(asked, tmp_path)


def test_a_dress_that_was_not_worn_fails_the_build(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(job(splits, epochs=1, freeze_norm=True), dress={"dialects": ["x86"], "keep_zeros": ["conv_stem"]})
    monkeypatch.setattr(loop.dress, "put_on", lambda *_, **__: None)
    with pytest.raises(TlcompileError, match=r"dress\.keep_zeros: .* 1, training applied 0\n.*dress\.dialects"):
        run(asked, tmp_path)


def test_dropout_that_the_network_lost_fails_the_build(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(splits, epochs=1)
    options = timm.Options.model_validate({**asked.model.options.model_dump(), "drop_rate": 0.3, "drop_path_rate": 0.2})
    asked = replace(asked, model=Plugin("models", "timm", options))
    applied = json.loads((run(asked, tmp_path / "kept") / "applied.json").read_text())
    assert applied["dropout"] == [0.3]
    assert 0 < applied["drop_path"] <= 0.2
    real = timm.build
    plain = options.model_copy(update={"drop_rate": 0.0, "drop_path_rate": 0.0})
    monkeypatch.setattr(timm, "build", lambda _, *rest, **more: real(plain, *rest, **more))
    with pytest.raises(TlcompileError, match=r"model\.drop_rate: the recipe says 0\.3(.|\n)*model\.drop_path_rate"):
        run(asked, tmp_path / "lost")


def test_what_was_applied_names_every_part_of_the_training(splits: Path, tmp_path: Path) -> None:
    asked = job(splits, epochs=1, trainable="lora", lora=CONV, precision="bf16")
    applied = json.loads((run(asked, tmp_path) / "applied.json").read_text())
    assert applied["precision"] == "bf16"
    assert (applied["lora"]["rank"], applied["lora"]["alpha"]) == (2, 16)
    assert applied["trained_blocks"] == 0 < applied["blocks"]
    assert applied["batch_norms"]["learnt"] == 0 < applied["batch_norms"]["kept"]
    assert 0 < applied["trainable_parameters"] < 0.2 * applied["parameters"]
    assert applied["loss"] == {"name": "cross-entropy", "keys": [], "label_smoothing": 0.0}
