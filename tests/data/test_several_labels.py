"""Several labels an example, none included, from every form in which they are written."""

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
SETS = [["b"], ["a", "c"], [], ["c"], ["a", "b", "c"]]
ROWS = [(f"text {i}", SETS[i % 5]) for i in range(40)]
FLAGS = {f"text {i}": [float(name in SETS[i % 5]) for name in "abc"] for i in range(40)}


def csv(folder: Path, head: str, rows: list[str]) -> Path:
    (folder / "all.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def found(done: Prepared) -> dict[str, list[float]]:
    """text -> its labels as a network is taught them, of all splits."""
    parts = [done.split(name) for name in ("train", "val", "test")]
    assert all(part.labels.dtype == np.float32 for part in parts)
    return {str(part[i]): part.labels[i].tolist() for part in parts for i in range(len(part))}


def test_a_text_with_separators(tmp_path: Path, run: Run) -> None:
    path = csv(tmp_path, "text,labels", [f"{text},{'|'.join(names)}" for text, names in ROWS])
    done = run("csv", "text", learns="classes", path=path)
    assert found(done) == FLAGS
    assert done.info["classes"] == ["a", "b", "c"]
    assert done.info["labels"] == "classes"
    assert sum(done.sizes) == 40


def test_a_separator_of_one_s_own_with_spaces_around(tmp_path: Path, run: Run) -> None:
    path = csv(tmp_path, "text,tags", [f"{text},{' ; '.join(names)}" for text, names in ROWS])
    assert found(run("csv", "text", learns="classes", path=path, label_separator=";")) == FLAGS


def test_columns_of_0_and_1_in_the_order_in_which_they_are_named(tmp_path: Path, run: Run) -> None:
    path = csv(
        tmp_path, "text,c,a,b", [f"{t},{'c' in n:d},{'a' in n:d},{'true' if 'b' in n else 'false'}" for t, n in ROWS]
    )
    done = run("csv", "text", learns="classes", path=path, label_columns=["a", "b", "c"])
    assert found(done) == FLAGS
    assert run("csv", "text", learns="classes", path=path, label_columns=["c", "a", "b"]).info["classes"] == [*"cab"]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "parquet of indices"])
def test_lists(form: str, tmp_path: Path, run: Run) -> None:
    if form == "jsonl":
        (tmp_path / "all.jsonl").write_text("".join(json.dumps({"text": t, "labels": n}) + "\n" for t, n in ROWS))
    else:
        indices = form == "parquet of indices"
        lists = [[("abc".index(name) if indices else name) for name in names] for _, names in ROWS]
        table = pa.table({"text": [t for t, _ in ROWS], "labels": lists})
        if indices:
            feature = {"feature": {"names": [*"abc"], "_type": "ClassLabel"}, "_type": "List"}
            features = {"info": {"features": {"labels": feature}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(table, tmp_path / "all.parquet")
    done = run(form.split()[0], "text", learns="classes", path=tmp_path)
    assert found(done) == FLAGS
    assert done.info["classes"] == ["a", "b", "c"]


def test_images_that_a_csv_file_beside_them_lists(tmp_path: Path, run: Run) -> None:
    rows = []
    for split, count in (("train", 20), ("val", 5), ("test", 5)):
        (tmp_path / split).mkdir()
        for i in range(count):
            (tmp_path / split / f"{i}.jpg").write_bytes(jpeg(i))
            rows.append(f"{split}/{i}.jpg,{'|'.join(SETS[i % 5])}")
    (tmp_path / "labels.csv").write_text("\n".join(["file,labels", *rows]) + "\n")
    (tmp_path / "train" / "extra.jpg").write_bytes(jpeg())
    done = run("folder", "image", learns="classes", path=tmp_path)
    assert done.sizes == (20, 5, 5)
    assert done.split("val").labels.tolist() == [[float(n in names) for n in "abc"] for names in SETS]
    assert done.split("val").ids == [f"labels.csv:{line}" for line in range(22, 27)]
    assert any("train/extra.jpg" in note for note in done.info["notes"])


def test_counts_are_of_classes_and_sizes_of_examples(tmp_path: Path, run: Run) -> None:
    path = csv(tmp_path, "text,labels", [f"{text},{'|'.join(names)}" for text, names in ROWS])
    info = run("csv", "text", learns="classes", path=path).info
    totals = {name: sum(info["counts"][split][name] for split in info["counts"]) for name in "abc"}
    assert totals == {"a": 16, "b": 16, "c": 24}
    assert sum(info["sizes"].values()) == 40


def test_a_test_split_whose_labels_are_kept_secret_is_left_out(tmp_path: Path, run: Run) -> None:
    csv(tmp_path, "text,labels", [])
    (tmp_path / "all.csv").rename(tmp_path / "test.csv")
    (tmp_path / "test.csv").write_text("text,labels\n" + "".join(f"more {i},\n" for i in range(4)))
    (tmp_path / "train.csv").write_text("text,labels\n" + "".join(f"{t},{'|'.join(n)}\n" for t, n in ROWS))
    done = run("csv", "text", learns="classes", path=tmp_path)
    assert sum(done.sizes) == 40
    assert any("none of its 4 examples has a label" in note for note in done.info["notes"])


def test_every_bad_label_is_told_with_its_place(tmp_path: Path, told: Told) -> None:
    csv(tmp_path, "text,a,b", ["one,1,0", "two,yes,0", "three,0,2", "four,,"])
    said = told("csv", "text", learns="classes", path=tmp_path, label_columns=["a", "b"])
    assert said.splitlines() == [
        "all.csv:3: column 'a' holds 'yes'; 0 or 1 is expected",
        "all.csv:4: column 'b' holds '2'; 0 or 1 is expected",
        "all.csv:5: column 'a' is empty; every example needs a label",
    ]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("a||b", "an empty class name in 'a||b'"),
        ("a|", "an empty class name in 'a|'"),
    ],
)
def test_a_separator_too_many_is_told(labels: str, said: str, tmp_path: Path, told: Told) -> None:
    csv(tmp_path, "text,labels", [f"one,{labels}", "two,a"])
    assert told("csv", "text", learns="classes", path=tmp_path) == f"all.csv:2: {said}"


def test_an_index_that_names_no_class_is_told(tmp_path: Path, told: Told) -> None:
    feature = {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "Sequence"}
    table = pa.table({"text": ["one", "two"], "labels": [[0], [1, 7]]})
    metadata = {"huggingface": json.dumps({"info": {"features": {"labels": feature}}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "all.parquet")
    said = told("parquet", "text", learns="classes", path=tmp_path)
    assert said == "all.parquet:2: the label 7 is no index of the 2 class names"


def test_a_class_that_never_occurs_is_told(tmp_path: Path, told: Told) -> None:
    csv(tmp_path, "text,a,b", [f"text {i},{i % 2},0" for i in range(10)])
    said = told("csv", "text", learns="classes", path=tmp_path, label_columns=["a", "b"])
    assert "class 'b' has no examples; at least 3 are needed to have one each in train, val, test" in said


def test_label_columns_of_a_task_with_one_class_are_told(tmp_path: Path, told: Told) -> None:
    csv(tmp_path, "text,a,b", ["one,1,0"])
    said = told("csv", "text", path=tmp_path, label_columns=["a", "b"])
    assert said == "all.csv: label_columns = [...] is for tasks with several labels an example"


def test_a_source_of_one_class_alone_is_told(told: Told) -> None:
    said = told("sklearn", "image", learns="classes")
    assert said == (
        "source 'sklearn' brings 'one class' for each example; task 'image-classification' learns 'several classes'"
    )


def test_rows_of_a_list_without_their_image_are_told_all_at_once(tmp_path: Path, told: Told) -> None:
    (tmp_path / "one.jpg").write_bytes(jpeg())
    (tmp_path / "labels.csv").write_text("file,labels\nonne.jpg,a\n../one.jpg,a\none.jpg,a\none.jpg,b\n")
    said = told("folder", "image", learns="classes", path=tmp_path).splitlines()
    assert said[0] == "labels.csv:2: no such file 'onne.jpg'; did you mean 'one.jpg'?"
    assert said[1].startswith("labels.csv:3: '../one.jpg' is not the path of an image below")
    assert said[2] == "labels.csv:5: 'one.jpg' stands in line 4 already"


def test_a_list_may_also_say_one_class_an_image_and_a_column_without_a_list_is_told(
    tmp_path: Path, run: Run, told: Told
) -> None:
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    (tmp_path / "list.csv").write_text("path,split,kind\n" + "".join(f"{i}.jpg,x,{'ab'[i % 2]}\n" for i in range(20)))
    done = run("folder", "image", path=tmp_path, labels="list.csv", label="kind")
    assert done.info["classes"] == ["a", "b"]
    assert done.split("train").labels.dtype == np.int64
    said = told("folder", "image", path=tmp_path, label="kind")
    assert "label = ... names a column of a CSV file; give labels = 'labels.csv', or leave it out" in said


def test_without_a_list_the_missing_file_is_told(tmp_path: Path, told: Told) -> None:
    (tmp_path / "label.csv").write_text("file,labels\n")
    said = told("folder", "image", learns="classes", path=tmp_path)
    assert "labels.csv: no such file or folder; did you mean 'label.csv'?" in said


@given(st.lists(st.sets(st.integers(0, 3)), min_size=12, max_size=80), st.integers(0, 100))
def test_the_rarest_label_decides_and_every_stratum_that_can_be_is_in_every_split(
    sets: list[set[int]], seed: int
) -> None:
    labels = np.array([[int(k in chosen) for k in range(4)] for chosen in sets], np.int8)
    groups, count = strata(labels, "classes", 3)
    assert set(groups) == set(range(count))
    targets = assign(groups, {0: 0.7, 1: 0.2, 2: 0.1}, count, seed)
    for group in range(count):
        if (groups == group).sum() >= 3:
            assert set(targets[groups == group]) == {0, 1, 2}
    assert (targets == 0).any()


def test_an_example_is_of_the_stratum_of_its_rarest_label_and_small_strata_are_put_together() -> None:
    often = [[1, 0, 0]] * 6 + [[1, 1, 0]] * 4
    groups, count = strata(np.array([*often, [0, 0, 1], [0, 0, 0], [1, 0, 1]], np.int8), "classes", 3)
    assert count == 3
    assert [len(set(groups[part])) for part in (slice(6), slice(6, 10), slice(10, 13))] == [1, 1, 1]
