"""Learning the answers of another network beside the labels.

loss = (1 - alpha) · the recipe's loss + alpha · how far the student's answers are from the teacher's

    one class        T² · KL(softmax(teacher / T) ‖ softmax(student / T))  (G. Hinton et al., "Distilling the Knowledge
                     in a Neural Network", 2015, section 2: T² keeps the gradients' scale whatever T is)
    several classes  the same of each class's own two answers, sigmoid(· / T), as a mean over the classes
    a number         the squared difference; T plays no part

The teacher is a network that is run on the very view that the student sees, mixed images included (L. Beyer et al.,
"Knowledge distillation: A good teacher is patient and consistent", CVPR 2022), or a file of its answers, one row for
each training example, whatever made them: an ensemble, averaged views, any ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, logsigmoid, mse_loss
from torch.utils.data import Dataset

from tlcompile import registry
from tlcompile.artifacts import ImageSpec, Lesson, read_json
from tlcompile.errors import Problem, RecipeError
from tlcompile.models import _restore
from tlcompile.tasks._losses import at_least_fp32

if TYPE_CHECKING:
    from tlcompile.models._network import Network
    from tlcompile.train.job import Job

Distance = Callable[[Tensor, Tensor], Tensor]
FILE, WHERE = "train.npy", "distill"


def distance(labels: str, temperature: float) -> Distance:
    """(student's, teacher's) logits [N, K] -> their mean distance, in fp32 or, where given that, in fp64."""
    of = {"class": _of_class, "classes": _of_classes, "number": _of_number}[labels]
    return lambda student, teacher: of(at_least_fp32(student), at_least_fp32(teacher), temperature)


def _of_class(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    there, here = (teacher / t).log_softmax(-1), (student / t).log_softmax(-1)
    return kl_div(here, there, reduction="batchmean", log_target=True) * t**2


def _of_classes(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    sides = [(logsigmoid(sign * student / t), logsigmoid(sign * teacher / t)) for sign in (1, -1)]
    both = [kl_div(here, there, reduction="none", log_target=True) for here, there in sides]
    return (both[0] + both[1]).mean() * t**2


def _of_number(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    return mse_loss(student, teacher)


class Teacher:
    """What a step of `job` is taught beside its labels. Without a teacher a loss stays what it is."""

    def __init__(self, job: Job, labels: str, student: Network, device: torch.device) -> None:
        lesson = job.teacher or Lesson()
        self.alpha, self.distance = lesson.alpha, distance(labels, lesson.temperature)
        self.module: nn.Module | None = None
        if lesson.network:
            self.module = teacher(job, lesson.network, student).module.eval().requires_grad_(False).to(device)
            if isinstance(student.spec, ImageSpec) and job.table.channels_last:
                self.module.to(memory_format=torch.channels_last)

    def answers(self, inputs: dict[str, Tensor], kept: Tensor | None) -> Tensor | None:
        """The teacher's logits for a batch: those `kept` for its examples, or what its network says of `inputs`."""
        if kept is not None or self.module is None:
            return kept
        with torch.no_grad():
            found: Tensor = self.module(*inputs.values())
        return found

    def __call__(self, loss: Tensor, logits: Tensor, answers: Tensor | None) -> Tensor:
        if answers is None:
            return loss
        return (1 - self.alpha) * loss + self.alpha * self.distance(logits, answers)


def teacher(job: Job, folder: Path, student: Network) -> Network:
    """The network of the Checkpoint `folder`; RecipeError where it can't answer what `student` is asked."""
    about = read_json(folder / "network.json")
    problems = []
    if job.table.trainable == "head":
        problems.append(Problem(WHERE, "trainable = 'head' sees features, a teacher the examples themselves"))
    if tuple(about["classes"]) != job.classes:
        what = f"the teacher has other classes: {list(about['classes'])[:5]}, expected {list(job.classes)[:5]}"
        problems.append(Problem(WHERE, what))
    if problems:
        raise RecipeError(*problems)
    library = registry.load("models", about["library"])
    options = library.Options.model_validate(about["model"], context={"base": job.base})
    found = _restore.restore(folder, library, options)
    if view_of(found) != view_of(student):
        raise RecipeError(Problem(WHERE, "the teacher normalises pixels, or cuts texts into tokens, in another way"))
    return found


def view_of(network: Network) -> tuple[Any, ...]:
    """How examples become numbers, but for the size of images."""
    if isinstance(network.spec, ImageSpec):
        return network.spec.mean, network.spec.std
    return network.spec.pad_id, network.tokenizer


def kept_answers(job: Job, examples: int) -> np.ndarray | None:
    """The teacher's answers that lie in a file, float32 [examples, outputs] and mapped; None where there are none."""
    if not job.teacher or not job.teacher.answers:
        return None
    if job.table.augment.mixup or job.table.augment.cutmix:
        raise RecipeError(Problem(WHERE, "the teacher's answers are of single images, mixup and cutmix make others"))
    outputs = max(1, len(job.classes))
    try:
        rows = np.load(job.teacher.answers / FILE, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecipeError(Problem(WHERE, f"can't read the teacher's answers in '{FILE}': {error}")) from error
    if rows.shape != (examples, outputs):
        what = f"expected a row of {outputs} answers for each of {examples} training examples, found {list(rows.shape)}"
        raise RecipeError(Problem(WHERE, what))
    if not np.isfinite(rows).all():
        raise RecipeError(Problem(WHERE, f"the teacher's answers in '{FILE}' hold NaN or infinity"))
    return np.asarray(rows, np.float32)


class WithAnswers(Dataset[Any]):
    """The batches of `examples` with the teacher's rows beside the targets: inputs, (targets, answers)."""

    def __init__(self, examples: Any, answers: np.ndarray) -> None:
        self.examples, self.rows = examples, answers
        self.views, self.view = getattr(examples, "views", ()), getattr(examples, "view", None)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        inputs, targets = self.examples.__getitems__(keys)
        indices = [key[1] if isinstance(key, tuple) else key for key in keys]
        return inputs, (targets, torch.from_numpy(self.rows[indices]))


def parted(targets: Any) -> tuple[Tensor, Tensor | None]:
    """(targets, the teacher's rows or None) of a batch."""
    return (targets[0], targets[1]) if isinstance(targets, tuple | list) else (targets, None)
