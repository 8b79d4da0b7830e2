from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlcompile.report.page import page
from tlcompile.report.pictures import draw_all
from tlcompile.report.write import plain, write


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_is_its_facts_a_page_and_pictures(facts: dict[str, Any], tmp_path: Path) -> None:
    write(facts, tmp_path)
    made = files(tmp_path)
    assert set(made) == {
        "report.json",
        "report.md",
        *(f"pictures/{n}.png" for n in ("variants", "curves", "confusion")),
    }
    assert json.loads(made["report.json"]) == facts


def test_equal_facts_give_equal_files(facts: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(facts, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_numbers_that_json_lacks_become_null() -> None:
    found = plain({"a": float("nan"), "b": np.float32(0.5), "c": np.array([1, 2]), 3: (float("inf"), np.int64(4))})
    assert json.dumps(found, allow_nan=False) == '{"a": null, "b": 0.5, "c": [1, 2], "3": [null, 4]}'


def test_facts_may_all_be_absent(tmp_path: Path) -> None:
    write({}, tmp_path)
    assert set(files(tmp_path)) == {"report.json", "report.md"}


@pytest.mark.parametrize("empty", [False, True])
def test_each_fact_may_be_absent_or_empty(facts: dict[str, Any], tmp_path: Path, empty: bool) -> None:
    for name in facts:
        less = {**facts, name: type(facts[name])()} if empty else {k: v for k, v in facts.items() if k != name}
        page(less, set())
        if name in ("classes", "confusion", "history", "variants"):
            draw_all({k: less[k] for k in ("classes", "confusion", "history", "variants") if k in less}, tmp_path)


@pytest.mark.parametrize("table", ["variants", "history", "parity", "gates", "stages", "per_class"])
def test_each_column_may_be_absent(facts: dict[str, Any], tmp_path: Path, table: str) -> None:
    for key in facts[table][0]:
        rows = [{k: v for k, v in row.items() if k != key} for row in facts[table]]
        page({**facts, table: rows}, set())
        if table in ("variants", "history"):
            draw_all({table: rows}, tmp_path)


@pytest.mark.parametrize("key", ["gate", "limit", "value", "passed"])
def test_a_gate_without_a_column_is_drawn_or_left_out(facts: dict[str, Any], tmp_path: Path, key: str) -> None:
    gates = [{k: v for k, v in gate.items() if k != key} for gate in facts["gates"]]
    assert draw_all({"variants": facts["variants"], "gates": gates}, tmp_path) == {"variants"}


def test_what_the_network_received_is_shown(facts: dict[str, Any], tmp_path: Path) -> None:
    for name in ("samples", "report"):
        (tmp_path / name).mkdir()
    (tmp_path / "samples" / "views.png").write_bytes(b"a picture")
    write(facts | {"views": ["good\t[CLS] a film [SEP]"]}, tmp_path / "report", tmp_path / "samples")
    said = (tmp_path / "report" / "report.md").read_text()
    assert "![the first training batch](pictures/views.png)" in said
    assert "good\t[CLS] a film [SEP]" in said
    assert (tmp_path / "report" / "pictures" / "views.png").read_bytes() == b"a picture"
