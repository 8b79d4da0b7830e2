"""Where a run stands, kept so that a killed one goes on from there, bit for bit.

A checkpoint is a folder `at-EEEE-BBBBBB` (epochs done, batches done of the next) with everything that later steps
depend on: weights, optimizer, scaler, schedule, averages, the random states of every process, and `state.json` with the
history so far. It is written under another name and renamed, so it is whole or not there; the one before it is then
removed. The order of the examples and their random views follow from the seed and need not be kept.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from tlcompile.errors import Problem, RecipeError

_ASK_EVERY = 10  # steps between two looks at the clock of the main process


class Checkpoints:
    """`identity` says what is trained; a checkpoint of something else is refused."""

    def __init__(self, accelerator: Accelerator, work: Path, identity: dict[str, Any], every_s: float) -> None:
        self.accelerator, self.work, self.identity, self.every_s = accelerator, work, identity, every_s
        self.last, self.asked = time.monotonic(), 0

    def due(self) -> bool:
        """Whether enough time has passed; the same answer in all processes."""
        self.asked += 1
        late = time.monotonic() - self.last > self.every_s
        if self.accelerator.num_processes == 1:
            return late
        if self.asked % _ASK_EVERY:
            return False
        answer = [late]
        broadcast_object_list(answer)
        return bool(answer[0])

    def save(self, epoch: int, batch: int, state: dict[str, Any]) -> None:
        """After `epoch` whole epochs and `batch` batches of the next."""
        name = f"{epoch:04}-{batch:06}"
        temporary, folder = self.work / f"saving-{name}", self.work / f"at-{name}"
        self.accelerator.save_state(str(temporary), safe_serialization=True)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            text = json.dumps({"identity": self.identity, "epoch": epoch, "batch": batch, **state})
            (temporary / "state.json").write_text(text)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
            for old in self._found():
                if old != folder:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Put everything back to the newest checkpoint; its state, or None where there is none."""
        found = self._found()
        if not found:
            return None
        state: dict[str, Any] = json.loads((found[-1] / "state.json").read_text())
        theirs = state.pop("identity")
        other = sorted(k for k in theirs.keys() | self.identity.keys() if theirs.get(k) != self.identity.get(k))
        if other:
            shown = ", ".join(f"{k} {theirs.get(k)!r} there, {self.identity.get(k)!r} here" for k in other[:5])
            raise RecipeError(Problem(str(found[-1]), f"is a checkpoint of another recipe: {shown}"))
        self.accelerator.load_state(str(found[-1]))
        return state

    def _found(self) -> list[Path]:
        return sorted(self.work.glob("at-*"))
