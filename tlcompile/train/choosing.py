"""Which weights of a run are kept, and whether it has gone on long enough.

All of it is decided on the validation split, so a validation figure of what is kept leans to the good side; the notes
say so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import averaging

State = dict[str, Tensor]


class Choice:
    """Weights of epochs as files in `work`; which they are follows from the history."""

    def __init__(self, table: TrainTable, work: Path) -> None:
        self.table, self.work = table, work
        self.kept = "last"

    def after_epoch(self, history: list[dict[str, Any]], weights: State) -> None:
        """Keep `weights` if they may be wanted in the end. To be called by the main process, before the checkpoint."""
        if self.table.keep == "last":
            return
        newest = len(history) - 1
        if self.table.keep == "best" and best(history) != newest:
            return
        whole = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
        save_file(whole, self._path(newest))
        if self.table.keep == "best":
            for old in self.work.glob("weights-*.safetensors"):
                if old != self._path(newest):
                    old.unlink()

    def stop(self, history: list[dict[str, Any]]) -> bool:
        """Whether `early_stopping` epochs have passed since the best one."""
        patience = self.table.early_stopping
        return 0 < patience < len(history) and len(history) - 1 - best(history) >= patience

    def final(self, history: list[dict[str, Any]], score: Callable[[State], float]) -> tuple[State, str] | None:
        """(weights, what they are), or None where the last ones are kept. `score` is that of weights on validation."""
        if self.table.keep == "best":
            epoch, self.kept = best(history), "best"
            return load_file(self._path(epoch)), f"epoch {epoch + 1} of {len(history)}, with the lowest validation loss"
        if self.table.keep == "soup":
            states = [load_file(self._path(epoch)) for epoch in range(len(history))]
            order = sorted(range(len(states)), key=lambda i: -history[i]["val_accuracy"])
            state, chosen = averaging.soup(states, order, score)
            names, self.kept = ", ".join(str(i + 1) for i in sorted(chosen)), "soup"
            return state, f"the mean of the weights after epochs {names}, chosen on validation"
        return None

    def notes(self) -> list[str]:
        """What a reader of the validation figures must know."""
        uses = []
        uses += [f"keep = '{self.table.keep}'"] if self.table.keep != "last" else []
        uses += ["early stopping"] if self.table.early_stopping else []
        uses += ["the plateau schedule"] if self.table.schedule == "plateau" else []
        if self.table.retrain_full:
            return ["trained on train and val: there is no validation figure for these weights"]
        return (
            [f"the validation split was used for {' and '.join(uses)}: its figures lean to the good side"]
            if uses
            else []
        )

    def _path(self, epoch: int) -> Path:
        return self.work / f"weights-{epoch + 1:04}.safetensors"


def best(history: list[dict[str, Any]]) -> int:
    """Index of the epoch with the lowest validation loss, the first of equals."""
    return min(range(len(history)), key=lambda i: history[i]["val_loss"])


def waits(history: list[dict[str, Any]]) -> list[int]:
    """Epochs since the best one, after each epoch; nothing where there is no validation."""
    validated = history[: 0 if history[0]["val_loss"] is None else None]
    return [done - 1 - best(history[:done]) for done in range(1, len(validated) + 1)]
