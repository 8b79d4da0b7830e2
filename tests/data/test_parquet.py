"""Facts about the source `parquet`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_data import Prepared, jpeg

from tlcompile.data.parquet import Options, load
from tlcompile.errors import DataError

Run = Callable[..., Prepared]
Told = Callable[..., str]
HF_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write(path: Path, names: list[str] | None = None, **columns: Any) -> Path:
    """A Parquet file; `names` are the class names of its label column as Hugging Face notes them."""
    table = pa.table(columns)
    if names:
        features = {"label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=7)
    return path


def images(count: int) -> list[bytes]:
    return [jpeg(index) for index in range(count)]


def test_the_hugging_face_layout_is_read_with_its_class_names(tmp_path: Path, run: Run) -> None:
    column = pa.array([{"bytes": data, "path": None} for data in images(20)], HF_IMAGE)
    path = write(tmp_path / "all.parquet", ["cat", "dog"], img=column, label=[i % 2 for i in range(20)])
    done = run("parquet", "image", path=path)
    assert done.info["classes"] == ["cat", "dog"]
    assert done.sizes == (14, 4, 2)
    split = done.split("train")
    row = int(split.ids[5].rpartition(":")[2]) - 1
    assert split.raw(5) == jpeg(row)
    assert split.labels[5] == row % 2


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_image_bytes_is_enough(tmp_path: Path, run: Run, kind: pa.DataType) -> None:
    path = write(tmp_path / "all.parquet", picture=pa.array(images(20), kind), label=["a", "b"] * 10)
    assert run("parquet", "image", path=path).info["notes"] == [
        "column 'label' is taken as the label: by its name",
        "column 'picture' is taken as the image: the only one with image bytes",
    ]


def test_of_two_image_columns_the_one_called_image_is_taken_else_one_must_be_given(tmp_path: Path, told: Told) -> None:
    path = write(tmp_path / "all.parquet", mask=images(6), image=images(6), label=["a", "b"] * 3)
    notes = load(Options(path=str(path)), "image", 0).notes
    assert "column 'image' is taken as the image: by its name" in notes
    path = write(tmp_path / "all.parquet", left=images(6), right=images(6), label=["a", "b"] * 3)
    assert "no column can be taken as the image" in told("parquet", "image", path=path)
    assert load(Options(path=str(path), image="right"), "image", 0).classes == ("a", "b")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_and_string_labels_of_every_string_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "all.parquet", text=["x", "y"], label=pa.array(["b", "a"]).cast(kind))
    source = load(Options(path=str(path)), "text", 0)
    assert [(e.data, e.label) for e in source.read("all")] == [("x", 1), ("y", 0)]


def test_labels_outside_the_class_names_and_missing_ones_are_named(tmp_path: Path, told: Told) -> None:
    path = write(tmp_path / "all.parquet", ["a", "b"], text=["x"] * 4, label=[0, 2, None, -1])
    assert told("parquet", "text", path=path).splitlines() == [
        "all.parquet:2: the label 2 is no index of the 2 class names",
        "all.parquet:3: column 'label' is empty; every example needs a label",
        "all.parquet:4: column 'label' is empty; every example needs a label",
    ]


def test_a_test_split_with_secret_labels_is_left_out(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "train.parquet", ["a", "b"], text=["x"] * 20, label=[0, 1] * 10)
    write(tmp_path / "test.parquet", ["a", "b"], text=["x"] * 3, label=[-1] * 3)
    done = run("parquet", "text", path=tmp_path)
    assert done.sizes == (14, 4, 2)
    assert "test of the source is left out: none of its 3 examples has a label" in done.info["notes"]


def test_class_names_must_agree_between_files(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["a", "b"], text=["x"], label=[0])
    write(tmp_path / "test.parquet", ["b", "a"], text=["x"], label=[0])
    with pytest.raises(DataError, match=r"test.parquet: column 'label' has other class names than in train.parquet"):
        load(Options(path=str(tmp_path)), "text", 0)


def test_a_row_without_image_bytes_is_a_broken_image_and_no_path_is_followed(tmp_path: Path, told: Told) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    rows = [{"bytes": data, "path": None} for data in images(6)]
    rows[4] = {"bytes": None, "path": str(tmp_path / "secret.jpg")}
    path = write(tmp_path / "all.parquet", img=pa.array([*rows, None], HF_IMAGE), label=[0, 1, 0, 1, 0, 1, 0])
    said = told("parquet", "image", path=path)
    assert "all.parquet:5: is empty (0 bytes)" in said
    assert "all.parquet:7: is empty (0 bytes)" in said


def test_what_is_no_parquet_is_named(tmp_path: Path, told: Told) -> None:
    (tmp_path / "train.parquet").write_bytes(b"text,label\n")
    (tmp_path / "test.parquet").write_bytes(b"")
    said = told("parquet", "text", path=tmp_path)
    assert "train.parquet: can't be read as Parquet" in said
    assert "test.parquet: can't be read as Parquet" in said


def test_a_file_that_is_damaged_inside_is_named(tmp_path: Path, told: Told) -> None:
    path = write(tmp_path / "all.parquet", text=[f"word {i}" * 9 for i in range(60)], label=[0, 1] * 30)
    data = bytearray(path.read_bytes())
    data[60:1500] = bytes(1440)
    path.write_bytes(data)
    assert "all.parquet: can't be read after row" in told("parquet", "text", path=path)


def test_given_columns_must_suit_the_task(tmp_path: Path, told: Told) -> None:
    path = write(tmp_path / "all.parquet", words=["x", "y"], picture=images(2), label=[0, 1])
    assert "column 'words' is not of images" in told("parquet", "image", path=path, image="words")
    assert "column 'label' is not of texts" in told("parquet", "text", path=path, text="label")
    assert "text = ... is given, but the task learns from images" in told("parquet", "image", path=path, text="words")


def test_shards_of_the_hub_are_told_apart_by_name_or_folder(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/validation-00000-of-00001"):
        (tmp_path / "named" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "named" / f"{name}.parquet", text=["x", "y"], label=[0, 1])
    source = load(Options(path=str(tmp_path / "named")), "text", 0)
    assert {split: len(labels) for split, labels in source.labels.items()} == {"train": 4, "val": 2}
    for name in ("default/train/0000", "default/test/0000"):
        (tmp_path / "folders" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "folders" / f"{name}.parquet", text=["x", "y"], label=[0, 1])
    source = load(Options(path=str(tmp_path / "folders")), "text", 0)
    assert {split: len(labels) for split, labels in source.labels.items()} == {"train": 2, "test": 2}


@pytest.mark.parametrize("rows", [50, 1000])
def test_images_are_streamed_whether_row_groups_are_small_or_the_whole_file(tmp_path: Path, rows: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 50_000), dtype=np.uint8)
    table = pa.table({"img": pa.array([row.tobytes() for row in noise], pa.binary()), "label": [0, 1] * 500})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=rows, write_batch_size=10)
    del table
    source = load(Options(path=str(tmp_path)), "image", 0)
    before, most, total = pa.total_allocated_bytes(), 0, 0
    for example in source.read("all"):
        most = max(most, pa.total_allocated_bytes() - before)
        total += len(example.data)
    assert total == 50_000_000
    assert most < 15_000_000
