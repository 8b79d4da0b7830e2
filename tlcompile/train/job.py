"""What is to be trained, as plain values that can be handed to another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcompile import registry
from tlcompile.options import Options
from tlcompile.recipe.tables import Plugin, TrainTable


@dataclass(frozen=True)
class Job:
    """A model plug-in with its options, the training table, the splits folder; `base` is where relative paths start."""

    task: str
    model: Plugin
    table: TrainTable
    seed: int
    splits: Path
    classes: tuple[str, ...]
    base: Path

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
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Job:
        base = Path(value["base"])
        kind: type[Options] = registry.load("models", value["library"]).Options
        options = kind.model_validate(value["model"], context={"base": base})
        return cls(
            value["task"],
            Plugin("models", value["library"], options),
            TrainTable.model_validate(value["table"]),
            value["seed"],
            Path(value["splits"]),
            tuple(value["classes"]),
            base,
        )
