"""What a recipe leaves open is found, used and said."""

from __future__ import annotations

import json
from pathlib import Path

from tests.toy_training import job, run


def test_the_found_rate_and_batch_size_are_applied_and_written_down(splits: Path, tmp_path: Path) -> None:
    out = run(job(splits, epochs=2, batch_size="auto"), tmp_path / "batch")
    found, applied = (json.loads((out / name).read_text()) for name in ("found.json", "applied.json"))
    assert found["batch_size"] == applied["batch_size"] == 2
    out = run(job(splits, epochs=2, lr="find", batch_size=16), tmp_path / "rate")
    found, applied = (json.loads((out / name).read_text()) for name in ("found.json", "applied.json"))
    assert {g["peak_lr"] for g in applied["groups"]} == {found["lr"]}
    assert 1e-6 < found["lr"] < 10
    assert len(found["lr_curve"]) > 10


def test_a_short_text_run_has_a_constant_rate_and_an_image_run_a_cosine(splits: Path, tmp_path: Path) -> None:
    applied = json.loads((run(job(splits, epochs=1), tmp_path) / "applied.json").read_text())
    assert applied["schedule"]["name"] == "cosine"
