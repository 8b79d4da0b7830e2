"""What is to be trained, as plain values that can be handed to another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile import registry
from tlcompile.artifacts import Lesson
from tlcompile.errors import Problem, RecipeError
from tlcompile.options import Options
from tlcompile.recipe.tables import Plugin
from tlcompile.recipe.train_table import TrainTable

if TYPE_CHECKING:
    from tlcompile.models._network import Network


@dataclass(frozen=True)
class Job:
    """A model plug-in with its options, the training table, the splits folder; `base` is where relative paths start.

    `name` is what trackers call the run. `features` is the folder of what the head is fed, where only it is trained.
    `start` is the Checkpoint folder that training begins with instead of the pretrained weights, `teacher` what is
    learnt beside the labels. `dress` is what the network wears while it is trained: the arguments of `dress.put_on`.
    """

    task: str
    model: Plugin
    table: TrainTable
    seed: int
    splits: Path
    classes: tuple[str, ...]
    base: Path
    name: str = "run"
    features: Path | None = None
    start: Path | None = None
    teacher: Lesson | None = None
    dress: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def network(self) -> Network:
        """The network before any training: the same at each call, for what is new in it is drawn after `seed`.

        A new head begins at zero: it knows nothing yet, and so tells the pretrained body nothing wrong (so do A.
        Kolesnikov et al., "Big Transfer", ECCV 2020). Large random answers cost many steps to unlearn.
        """
        from accelerate.utils import set_seed

        kind = registry.load("tasks", self.task).KIND
        if kind not in self.model.module.KINDS:
            raise RecipeError(Problem("model.library", f"'{self.model.name}' makes no networks for {kind}s"))
        set_seed(self.seed)
        if self.start:
            return self.restored(self.start)
        network: Network = self.model.module.build(self.model.options, max(1, len(self.classes)))
        zero_head(network)
        return network

    def restored(self, folder: Path) -> Network:
        """The trained network of the Checkpoint `folder`, in eval mode."""
        from tlcompile.models._restore import restore

        return restore(folder, self.model.module, self.model.options)

    def identity(self) -> dict[str, Any]:
        """What decides the outcome, as flat names and plain values."""
        nested = {"model": {"library": self.model.name, **self.model.to_json()}, "train": self.table.key()}
        flat = {f"{part}.{key}": value for part, values in nested.items() for key, value in values.items()}
        taught = {"teacher": [self.teacher.alpha, self.teacher.temperature]} if self.teacher else {}
        worn = {f"dress.{key}": list(value) for key, value in self.dress.items()}
        return {"task": self.task, "seed": self.seed, "classes": list(self.classes), **flat, **taught, **worn}

    def optional_paths(self) -> dict[str, Path | None]:
        lesson = self.teacher or Lesson()
        places = {"features": self.features, "start": self.start}
        return {**places, "teacher_network": lesson.network, "teacher_answers": lesson.answers}

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "library": self.model.name,
            "model": self.model.to_json(),
            "table": self.table.model_dump(mode="json"),
            "seed": self.seed,
            "splits": str(self.splits),
            "classes": list(self.classes),
            "base": str(self.base),
            "name": self.name,
            "dress": {key: list(names) for key, names in self.dress.items()},
            "teacher": {"alpha": self.teacher.alpha, "temperature": self.teacher.temperature} if self.teacher else None,
            **{key: str(value) if value else None for key, value in self.optional_paths().items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Job:
        base = Path(value["base"])
        kind: type[Options] = registry.load("models", value["library"]).Options
        options = kind.model_validate(value["model"], context={"base": base})
        places = ("features", "start", "teacher_network", "teacher_answers")
        features, start, network, answers = (Path(value[key]) if value[key] else None for key in places)
        return cls(
            value["task"],
            Plugin("models", value["library"], options),
            TrainTable.model_validate(value["table"], context={"base": base}),
            value["seed"],
            Path(value["splits"]),
            tuple(value["classes"]),
            base,
            value["name"],
            features,
            start,
            Lesson(network, answers, **value["teacher"]) if value["teacher"] else None,
            value["dress"],
        )


def zero_head(network: Network) -> None:
    """Weights and bias of the head's last linear layer become 0, so all answers are 0."""
    from torch import nn

    head = network.module.get_submodule(network.head[-1])
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    if linear:
        nn.init.zeros_(linear[-1].weight)
        if linear[-1].bias is not None:
            nn.init.zeros_(linear[-1].bias)
