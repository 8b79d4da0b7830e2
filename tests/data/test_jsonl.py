"""Facts about the source `jsonl`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from toy_data import Prepared

from tlcompile.data.jsonl import Options, load

Run = Callable[..., Prepared]
Told = Callable[..., str]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_keys_are_columns_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", {"id": 1, "text": "ü", "label": "b"}, "\n", {"label": "a", "text": "x"})
    source = load(Options(path=str(path)), "text", 0)
    assert [(e.id, e.data, e.label) for e in source.read("all")] == [("all.jsonl:1", "ü", 1), ("all.jsonl:3", "x", 0)]


def test_every_bad_line_is_named(tmp_path: Path, told: Told) -> None:
    good = {"text": "x", "label": 1}
    path = write(tmp_path / "all.jsonl", good, "{no json\n", "[1, 2]\n", {"text": 5, "label": 0}, {"text": "y"}, good)
    said = told("jsonl", "text", path=path, text="text", label="label").splitlines()
    assert said[0].startswith("all.jsonl:2: not JSON: Expecting property name")
    assert said[1].startswith("all.jsonl:3: a JSON object is expected, found list")
    path = write(tmp_path / "all.jsonl", good, {"text": 5, "label": 0}, {"text": "y"}, {"text": "z", "label": 1.5})
    assert told("jsonl", "text", path=path).splitlines() == [
        "all.jsonl:2: column 'text' holds int 5, not a string",
        "all.jsonl:4: the label is float 1.5; a string or an integer is expected",
        "all.jsonl:3: column 'label' is empty; every example needs a label",
    ]


def test_labels_may_be_strings_integers_or_booleans(tmp_path: Path) -> None:
    for labels, classes in (([True, False], ("false", "true")), ([10, 9], ("9", "10")), (["b", "a"], ("a", "b"))):
        path = write(tmp_path / "all.jsonl", *({"text": "x", "label": label} for label in labels))
        assert load(Options(path=str(path)), "text", 0).classes == classes


def test_the_only_key_beside_the_text_is_the_label(tmp_path: Path) -> None:
    source = load(Options(path=str(write(tmp_path / "all.jsonl", {"text": "x", "stars": 4}))), "text", 0)
    assert "column 'stars' is taken as the label: the only other one" in source.notes


def test_an_empty_file_is_named(tmp_path: Path, told: Told) -> None:
    assert told("jsonl", "text", path=write(tmp_path / "all.jsonl")) == "all.jsonl: the file is empty"
