"""What the report says of engines that may answer with the first voice alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlcompile.report.early_exit import draw_early_exit
from tlcompile.report.page import page


def found(times: bool = True) -> dict[str, Any]:
    ms = [3.0, 2.0, 1.0] if times else [None] * 3
    rows = zip((None, 0.8, 0.3), (0.0, 0.5, 1.0), (0.95, 0.948, 0.9), ms, strict=True)
    curve = [dict(zip(("threshold", "left", "score", "mean_ms"), row, strict=True)) for row in rows]
    measured = {"accuracy": 0.94, "mean_ms": 2.1, "p99_ms": 3.4, "examples": 200}
    times_of = {"all_ms": 3.0, "first_ms": 1.0} if times else {}
    named = {"engine": "compile/cpu/tta-exit-fp32", "threshold": 0.8, "left": 0.5}
    return {**named, **measured, **times_of, "curve": curve}


def test_the_page_has_the_curve_and_what_was_measured(tmp_path: Path) -> None:
    facts = {"early_exit": [found()]}
    assert draw_early_exit(facts, tmp_path / "early_exit.png")
    assert (tmp_path / "early_exit.png").stat().st_size > 5000
    said = page(facts, {"early_exit"})
    assert "mean 2.10 ms and p99 3.40 ms over 200 test examples, one at a time" in said
    assert "all of them always: mean 3.00 ms; the first alone: mean 1.00 ms" in said
    assert "| 0.8 | 50% | 0.9480 | 2.00 | chosen |" in said
    assert "| none: all always | 0% | 0.9500 | 3.00 |  |" in said
    assert "pictures/early_exit.png" in said


def test_without_times_there_is_a_table_and_no_picture(tmp_path: Path) -> None:
    facts = {"early_exit": [found(times=False)]}
    assert not draw_early_exit(facts, tmp_path / "early_exit.png")
    assert "| 0.8 | 50% | 0.9480 | chosen |" in page(facts, set())


def test_a_build_without_one_says_nothing(tmp_path: Path) -> None:
    assert not draw_early_exit({}, tmp_path / "early_exit.png")
    assert "Early exit" not in page({"name": "plain"}, set())
