"""A number for each example: how it is read, cut into splits, taught; which numbers are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_data import Prepared, jpeg

from tlcompile.data._assign import assign, strata

Run = Callable[..., Prepared]
Told = Callable[..., str]


def csv(folder: Path, values: list[object], head: str = "text,price") -> Path:
    (folder / "all.csv").write_text("\n".join([head, *(f"text {i},{v}" for i, v in enumerate(values))]) + "\n")
    return folder


def test_it_is_kept_in_its_own_unit_and_taught_in_standard_deviations_of_train(tmp_path: Path, run: Run) -> None:
    values = [1e6 + 10 * i for i in range(100)]
    done = run("csv", "text", learns="number", path=csv(tmp_path, values), label="price")
    assert done.info["classes"] == []
    assert done.info["labels"] == "number"
    assert sorted(v for name in ("train", "val", "test") for v in done.split(name).truth) == values
    train, test = done.split("train"), done.split("test")
    target = done.info["target"]
    assert target == {"name": "price", "mean": train.truth.mean(), "std": train.truth.std()}
    assert train.labels.dtype == test.labels.dtype == np.float32
    assert abs(train.labels.mean()) < 1e-6
    assert train.labels.std() == pytest.approx(1)
    assert test.labels * target["std"] + target["mean"] == pytest.approx(test.truth)


def test_splits_have_the_numbers_of_every_tenth_of_the_range(tmp_path: Path, run: Run) -> None:
    done = run("csv", "text", learns="number", path=csv(tmp_path, [i**3 for i in range(200)]), label="price")
    assert done.sizes == (140, 40, 20)
    for name, each in (("train", 14), ("val", 4), ("test", 2)):
        tenths = np.cbrt(done.split(name).truth).round() // 20
        assert np.bincount(tenths.astype(int)).tolist() == [each] * 10


@pytest.mark.parametrize("form", ["jsonl", "parquet", "folder"])
def test_every_source_that_has_columns_brings_numbers(form: str, tmp_path: Path, run: Run) -> None:
    values = [i / 4 for i in range(40)]
    if form == "jsonl":
        (tmp_path / "all.jsonl").write_text("".join(json.dumps({"text": f"t {v}", "value": v}) + "\n" for v in values))
    elif form == "parquet":
        pq.write_table(pa.table({"text": [f"t {v}" for v in values], "value": values}), tmp_path / "all.parquet")
    else:
        for i in range(40):
            (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        (tmp_path / "labels.csv").write_text("file,value\n" + "".join(f"{i}.jpg,{v}\n" for i, v in enumerate(values)))
    done = run(form, "image" if form == "folder" else "text", learns="number", path=tmp_path)
    assert sorted(v for name in ("train", "val", "test") for v in done.split(name).truth) == values
    assert done.info["target"]["name"] == "value"
    assert any("column 'value' is taken as the label: by its name" in note for note in done.info["notes"])


def test_every_bad_number_is_told_with_its_place(tmp_path: Path, told: Told) -> None:
    path = csv(tmp_path, [1, "two", "nan", "-inf", '"1,5"', "", 3])
    assert told("csv", "text", learns="number", path=path, label="price").splitlines() == [
        "all.csv:3: the target is str 'two'; a number is expected",
        "all.csv:4: the target is nan; a finite number is expected",
        "all.csv:5: the target is -inf; a finite number is expected",
        "all.csv:6: the target is str '1,5'; a number is expected",
        "all.csv:7: column 'price' is empty; every example needs a label",
    ]


def test_a_truth_value_is_no_number(tmp_path: Path, told: Told) -> None:
    (tmp_path / "all.jsonl").write_text('{"text": "a", "value": 1}\n{"text": "b", "value": true}\n')
    said = told("jsonl", "text", learns="number", path=tmp_path)
    assert said == "all.jsonl:2: the target is bool True; a number is expected"


def test_a_target_that_is_the_same_everywhere_is_told(tmp_path: Path, told: Told) -> None:
    said = told("csv", "text", learns="number", path=csv(tmp_path, [2.5] * 30), label="price")
    assert said.endswith("'price' is 2.5 in all 30 examples; nothing can be learnt")


def test_a_split_whose_target_is_the_same_everywhere_is_told(tmp_path: Path, told: Told) -> None:
    (tmp_path / "train.csv").write_text("text,price\n" + "".join(f"text {i},{i}\n" for i in range(30)))
    (tmp_path / "test.csv").write_text("text,price\n" + "".join(f"more {i},7\n" for i in range(5)))
    said = told("csv", "text", learns="number", path=tmp_path, label="price")
    assert said.endswith("'price' is 7 in all 5 examples in test; nothing can be learnt")


def test_too_few_examples_are_told(tmp_path: Path, told: Told) -> None:
    said = told("csv", "text", learns="number", path=csv(tmp_path, [1, 2, 3]), label="price")
    assert said.endswith("3 examples; at least 6 are needed")


def test_names_of_classes_are_no_option_of_a_number(tmp_path: Path, told: Told) -> None:
    path = csv(tmp_path, list(range(30)))
    said = told("csv", "text", learns="number", path=path, label="price", class_names=["a", "b"])
    assert said.endswith("class_names = [...] is given, but the task learns a number")


@given(st.lists(st.floats(-1e9, 1e9), min_size=6, max_size=120), st.integers(0, 100))
def test_any_numbers_can_be_cut(values: list[float], seed: int) -> None:
    groups, count = strata(np.array(values), "number", 3)
    targets = assign(groups, {0: 0.7, 1: 0.2, 2: 0.1}, count, seed)
    assert len(targets) == len(values)
    assert np.bincount(targets, minlength=3).min() >= 1
