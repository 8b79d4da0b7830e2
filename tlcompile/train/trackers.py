"""Where the figures of a run go while it goes on: always a line of JSON a step; trackers that the recipe names.

A tracker that is not installed or does not answer is said once and left out: training goes on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tlcompile import progress
from tlcompile.errors import first_line

LOG = "log.jsonl"


class Trackers:
    """`names` of accelerate's trackers; `runs` is where those that write files put them. Made in the main process."""

    def __init__(self, names: tuple[str, ...], run: str, runs: Path, config: dict[str, Any], work: Path) -> None:
        self.log_file = work / LOG
        self.open: dict[str, Any] = {}
        self.dropped: list[str] = []
        for name in names:
            self._try(name, lambda name=name: self._start(name, run, runs, config))

    def _start(self, name: str, run: str, runs: Path, config: dict[str, Any]) -> None:
        from accelerate import tracking

        if name not in {str(n) for n in tracking.get_available_trackers()}:
            raise ModuleNotFoundError(f"it is not installed; pip install {name}")
        kind = tracking.LOGGER_TYPE_TO_CLASS[name]
        if kind.requires_logging_directory:
            runs.mkdir(parents=True, exist_ok=True)
            tracker = kind(run, str(runs))
        else:
            tracker = kind(run)
        if hasattr(tracker, "start"):
            tracker.start()
        tracker.store_init_configuration(
            {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in config.items()}
        )
        self.open[name] = tracker

    def log(self, values: dict[str, float], step: int) -> None:
        """Figures of a step (from 1) or of the epoch that ends with it."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, tracker in list(self.open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(values, step=step))

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        if self.log_file.exists():
            lines = self.log_file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            self.log_file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def finish(self) -> None:
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.finish)

    def _try(self, name: str, action: Any) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker raises must not end the training
            self.open.pop(name, None)
            reason = first_line(error)[:200]
            sentence = f"tracker '{name}' is left out: {reason}"
            self.dropped.append(sentence)
            progress.say(f"  {sentence}")
