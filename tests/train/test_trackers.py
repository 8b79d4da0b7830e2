"""A tracker that can't be had is said once; the figures are always written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.toy_training import job, run
from tlcompile.train.trackers import Trackers


class Failing:
    """A tracker whose server went away."""

    def __init__(self) -> None:
        self.calls = 0

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls += 1
        raise ConnectionError("no route to host")


def test_a_tracker_that_is_not_installed_does_not_stop_the_training(
    splits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = run(job(splits, epochs=1, trackers=("mlflow",)), tmp_path)
    told = capfd.readouterr().err
    assert told.count("tracker 'mlflow' is left out") == 1
    assert any("mlflow" in note for note in json.loads((out / "applied.json").read_text())["notes"])


def test_a_tracker_that_fails_later_is_dropped_after_its_first_failure(tmp_path: Path) -> None:
    trackers = Trackers((), "run", tmp_path, {}, tmp_path)
    failing = Failing()
    trackers.open["wandb"] = failing
    trackers.log({"loss": 1.0}, 1)
    trackers.log({"loss": 0.5}, 2)
    assert failing.calls == 1
    assert trackers.dropped == ["tracker 'wandb' is left out: no route to host"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_tensorboard_gets_what_the_log_gets(splits: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(job(splits, epochs=1, trackers=("tensorboard",), runs_dir=str(tmp_path / "runs")), tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = next((tmp_path / "runs").rglob("events*"))
    read = EventAccumulator(str(events.parent))
    read.Reload()
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    wanted = [line["loss"] for line in lines if "loss" in line]
    assert [event.value for event in read.Scalars("loss")] == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_tracker_that_is_installed_takes_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read while it is imported
    pytest.importorskip(name, reason=f"pip install {name}")
    trackers = Trackers((name,), "run", tmp_path / "runs", {"lr": 1e-3, "betas": (0.9, 0.999)}, tmp_path)
    for step in (1, 2, 3):
        trackers.log({"loss": 1 / step}, step)
    trackers.finish()
    assert not trackers.dropped
    assert list(trackers.open) == [name]
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "log.jsonl"]
    assert kept, "nothing was written"
