"""Facts about the source `hf`. Each runs in a process of its own, because `datasets` reads HF_HOME when it is imported.

A folder of Parquet files stands for a set of the hub: `datasets` loads both the same way, through its cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_data import jpeg

pytest.importorskip("datasets")
SCRIPT = """
import json, sys
from tlcompile.data.hf import Options, load
from tlcompile.errors import DataError
kind, options = sys.argv[1], json.loads(sys.argv[2])
try:
    source = load(Options(**options), kind, 0)
except DataError as error:
    print(json.dumps(str(error)))
else:
    read = {s: [(e.id, len(e.data), e.label) for e in source.read(s)] for s in source.labels}
    print(json.dumps([source.classes, {s: v.tolist() for s, v in source.labels.items()}, read, source.notes]))
"""


def load_apart(home: Path, kind: str, **options: str) -> object:
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, json.dumps(options)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_a_set_that_is_neither_cached_nor_reachable_says_where_it_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    said = load_apart(tmp_path, "text", name="stanfordnlp/nothing", revision="abc")
    assert isinstance(said, str)
    assert said.startswith("stanfordnlp/nothing: can't be loaded: ")
    assert f"Looked in the cache {tmp_path}/datasets and on the hub" in said
    assert "datasets.load_dataset('stanfordnlp/nothing', revision='abc')" in said
    assert 'use source = "parquet"' in said


def test_a_cached_set_is_read_with_its_class_names_and_splits(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    folder = tmp_path / "set"
    folder.mkdir()
    for split, count in (("train", 4), ("validation", 2)):
        rows = {"image": [{"bytes": jpeg(i), "path": None} for i in range(count)], "label": [1, 0] * (count // 2)}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    found = load_apart(tmp_path / "home", "image", name=str(folder))
    assert isinstance(found, list)
    classes, labels, read, notes = found
    assert classes == ["cat", "dog"]
    assert labels == {"train": [1, 0, 1, 0], "val": [1, 0]}
    assert read["train"][2] == [f"{folder}/train:3", len(jpeg(2)), 1]
    assert "column 'image' is taken as the image: the only one with image bytes" in notes


def test_images_are_read_from_files_inside_the_cache_only(tmp_path: Path) -> None:
    import pyarrow as pa

    from tlcompile.data._arrow import ArrowTable
    from tlcompile.data._source import Problems

    (tmp_path / "cache").mkdir()
    for place in ("cache/in.jpg", "out.jpg"):
        (tmp_path / place).write_bytes(jpeg())
    paths = [tmp_path / "cache" / "in.jpg", tmp_path / "out.jpg", tmp_path / "cache" / ".." / "out.jpg"]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = pa.array([{"bytes": None, "path": str(path)} for path in paths], kind)
    batch = pa.record_batch({"image": column})
    table = ArrowTable("t", batch.schema, lambda columns: iter([batch]), images_below=tmp_path / "cache")
    assert [len(data) for _, (data,) in table.rows(["image"], Problems())] == [len(jpeg()), 0, 0]
