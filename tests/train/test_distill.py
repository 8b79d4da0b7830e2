"""What a teacher says is learnt: the formulas, and runs that learn what only the teacher knows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.autograd import gradcheck

from tests.toy_training import job, run
from tlcompile.artifacts import Lesson
from tlcompile.data import Split
from tlcompile.errors import RecipeError
from tlcompile.train import Job
from tlcompile.train.distill import distance
from tlcompile.train.loop import Trainer

LABELS = ("class", "classes", "number")


def logits(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.randn(n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradients_are_those_of_the_formula(labels: str, temperature: float) -> None:
    student, teacher = logits(5, 4, 0).requires_grad_(), logits(5, 4, 1)
    assert gradcheck(lambda s: distance(labels, temperature)(s, teacher), (student,))


def test_one_class_is_hintons_divergence() -> None:
    student, teacher, t = logits(5, 4, 0), logits(5, 4, 1), 3.0
    p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
    expected = t**2 * (p * (p / q).log()).sum(-1).mean()
    assert torch.allclose(distance("class", t)(student, teacher), expected)


def test_several_classes_are_two_answers_each() -> None:
    student, teacher, t = logits(5, 4, 0), logits(5, 4, 1), 3.0
    p, q = (teacher / t).sigmoid(), (student / t).sigmoid()
    expected = t**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert torch.allclose(distance("classes", t)(student, teacher), expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=8, max_size=8),
    st.sampled_from(LABELS),
    st.floats(0.5, 20),
)
def test_distances_are_finite_at_least_zero_and_zero_for_the_same_answers(
    values: list[float], labels: str, temperature: float
) -> None:
    both = torch.tensor(values, dtype=torch.float32).view(2, 1, 4)
    student, teacher = both[0].clone().requires_grad_(), both[1]
    found = distance(labels, temperature)(student, teacher)
    found.backward()
    assert torch.isfinite(found)
    assert found >= -1e-4 * max(1.0, float(both.abs().max()))
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert float(distance(labels, temperature)(teacher, teacher)) == pytest.approx(0, abs=1e-5)


def flipped_teacher(trained: Path, root: Path) -> Path:
    """A Checkpoint that says dark of what is light: its answers are in no label."""
    shutil.copytree(trained, root)
    state = load_file(root / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = -state[name]
    save_file(state, root / "model.safetensors")
    return root


def accuracy(folder: Path) -> float:
    with np.load(folder / "reference.npz") as found:
        return float((found["test_logits"].argmax(-1) == found["test_labels"]).mean())


@pytest.fixture(scope="module")
def trained(splits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run(job(splits, epochs=6), tmp_path_factory.mktemp("teacher"))
    assert accuracy(folder) > 0.8
    return folder


def student(splits: Path, lesson: Lesson, **table: object) -> Job:
    return replace(job(splits, **{"epochs": 6, **table}), teacher=lesson)


def test_the_answers_of_a_network_are_learnt_instead_of_the_labels(splits: Path, trained: Path, tmp_path: Path) -> None:
    teacher = flipped_teacher(trained, tmp_path / "teacher")
    assert accuracy(run(student(splits, Lesson(network=teacher, alpha=1.0)), tmp_path)) < 0.3


def test_no_share_of_the_teacher_leaves_training_as_it_was(splits: Path, trained: Path, tmp_path: Path) -> None:
    taught = run(student(splits, Lesson(network=trained, alpha=0.0), epochs=2), tmp_path / "taught")
    alone = run(job(splits, epochs=2), tmp_path / "alone")
    a, b = (load_file(folder / "model.safetensors") for folder in (taught, alone))
    assert all(torch.equal(a[name], b[name]) for name in a)


def rows_of(splits: Path, folder: Path, sign: float) -> Path:
    """Answers for every training example: its label, or with -1 the other one."""
    folder.mkdir(parents=True)
    labels = Split(splits, "train").labels
    np.save(folder / "train.npy", (sign * 4 * (2 * np.eye(2)[labels] - 1)).astype(np.float32))
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_kept_answers_belong_to_their_examples_in_any_order(splits: Path, tmp_path: Path, workers: int) -> None:
    rows = rows_of(splits, tmp_path / "rows", -1)
    folder = run(student(splits, Lesson(answers=rows, alpha=1.0), workers=workers), tmp_path)
    assert accuracy(folder) < 0.3


def test_kept_answers_are_taught_for_features_too(splits: Path, tmp_path: Path) -> None:
    rows = rows_of(splits, tmp_path / "rows", -1)
    asked = student(splits, Lesson(answers=rows, alpha=1.0), trainable="head", epochs=20)
    plain = replace(asked, table=asked.table.model_copy(update={"augment": type(asked.table.augment)()}))
    assert accuracy(run(plain, tmp_path)) < 0.3


@pytest.mark.parametrize("kind", ["network", "answers"])
def test_stopped_and_resumed_equals_never_stopped(
    splits: Path, trained: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = Lesson(network=trained) if kind == "network" else Lesson(answers=rows_of(splits, tmp_path / "rows", 1))
    asked = student(splits, lesson, epochs=2, save_every_s=1e-6)
    whole = run(asked, tmp_path / "whole")
    steps = Trainer.step

    def stopping(self: Trainer, epoch: int, batch: int, *others: object) -> None:
        if (epoch, batch) == (1, 2):
            raise KeyboardInterrupt
        steps(self, epoch, batch, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(asked, tmp_path / "stopped")
    monkeypatch.undo()
    resumed = run(asked, tmp_path / "stopped")
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def refusal(asked: Job, root: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        run(asked, root)
    return str(caught.value)


def test_a_teacher_that_can_not_teach_is_refused(splits: Path, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    about = json.loads((other / "network.json").read_text())
    (other / "network.json").write_text(json.dumps({**about, "classes": ["cat", "dog"]}))
    told = refusal(student(splits, Lesson(network=other), trainable="head"), tmp_path / "a")
    assert "the teacher has other classes: ['cat', 'dog'], expected ['dark', 'light']" in told
    assert "trainable = 'head' sees features" in told


@pytest.mark.parametrize(
    ("rows", "table", "told"),
    [
        (
            np.zeros((3, 2), np.float32),
            {},
            "expected a row of 2 answers for each of 42 training examples, found [3, 2]",
        ),
        (np.full((42, 2), np.nan, np.float32), {}, "hold NaN or infinity"),
        (None, {}, "can't read the teacher's answers in 'train.npy'"),
        (np.zeros((42, 2), np.float32), {"augment": {"mixup": 0.2}}, "mixup and cutmix make others"),
    ],
)
def test_answers_that_do_not_fit_are_refused(
    splits: Path, tmp_path: Path, rows: np.ndarray | None, table: dict[str, object], told: str
) -> None:
    if rows is not None:
        np.save(tmp_path / "train.npy", rows)
    assert told in refusal(student(splits, Lesson(answers=tmp_path), **table), tmp_path / "run")


def test_the_lesson_survives_being_written_down(splits: Path, tmp_path: Path) -> None:
    asked = student(splits, Lesson(answers=tmp_path, alpha=0.3, temperature=5.0))
    assert Job.from_json(json.loads(json.dumps(asked.to_json()))).teacher == asked.teacher
    assert asked.identity() != job(splits, epochs=6).identity()
