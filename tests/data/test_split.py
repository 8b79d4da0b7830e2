"""Facts about reading a split back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toy_data import Prepared, jpeg

from tlcompile.artifacts import Splits
from tlcompile.data import Split, open_split
from tlcompile.data._source import Example
from tlcompile.data._write import SplitWriter
from tlcompile.runtime.feeds import batches
from tlcompile.runtime.images import decode

Run = Callable[..., Prepared]


@pytest.fixture
def images(tmp_path: Path) -> Split:
    """3,000 images in several record batches, of two shapes in turn."""
    with SplitWriter(tmp_path / "train.arrow", "image") as writer:
        for index in range(3000):
            size = (8, 6) if index % 2 else (5, 5)
            writer.add(Example(f"file{index}", jpeg(index, size), index % 7), size[1], size[0])
    return Split(tmp_path, "train")


@pytest.fixture
def texts(tmp_path: Path) -> Split:
    with SplitWriter(tmp_path / "val.arrow", "text") as writer:
        for index, text in enumerate(["short", "酒店很好", "a much longer one", "🙂"]):
            writer.add(Example(f"t{index}", text, index % 2), 0, 0)
    return Split(tmp_path, "val")


def test_it_knows_labels_shapes_and_ids_and_reads_examples_at_their_place(images: Split) -> None:
    assert len(images) == 3000
    assert images.labels.dtype == np.int64
    assert images.labels[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert images.shapes[:2].tolist() == [[5, 5], [6, 8]]
    assert images.ids[2999] == "file2999"
    for index in (0, 1, 1023, 1024, 2047, 2048, 2999, -1):
        at = index % 3000
        assert images.raw(index) == jpeg(at, (8, 6) if at % 2 else (5, 5))
    np.testing.assert_array_equal(images.example(1), decode(jpeg(1, (8, 6))))


def test_it_is_a_sequence(images: Split, texts: Split) -> None:
    assert list(texts) == texts[:] == ["short", "酒店很好", "a much longer one", "🙂"]
    assert [image.shape for image in images[1:3]] == [(6, 8, 3), (5, 5, 3)]
    with pytest.raises(IndexError):
        images[3000]


def test_threads_and_other_processes_may_share_it(images: Split) -> None:
    expected = [images.raw(i) for i in range(300)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(images.raw, range(300))) == expected
    assert pickle.loads(pickle.dumps(images)).raw(7) == expected[7]


def test_shapes_of_texts_are_their_lengths_in_bytes(texts: Split) -> None:
    assert texts.kind == "text"
    assert texts.shapes.tolist() == [[5], [12], [17], [4]]


def test_batches_of_a_split_are_made_without_reading_an_example(images: Split, texts: Split) -> None:
    images.example = texts.raw = None  # type: ignore[assignment,method-assign]
    found = list(batches(images, 64))
    assert sorted(i for batch in found for i in batch) == list(range(3000))
    assert all(len({i % 2 for i in batch}) == 1 and len(batch) <= 64 for batch in found)
    assert list(batches(texts, 3)) == [[3, 0, 1], [2]]


def test_batches_of_plain_examples_group_by_shape_and_length() -> None:
    small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert list(batches([large, small, large, small, small], 2)) == [[1, 3], [4], [0, 2]]
    assert list(batches(["ccc", "a", "bb"], 2)) == [[1, 2], [0]]
    assert list(batches([], 2)) == []


def test_open_split_reads_a_finished_artifact(images: Split, tmp_path: Path) -> None:
    assert len(open_split(Splits(tmp_path, "digest"), "train")) == 3000


def test_images_are_kept_as_their_source_had_them(tmp_path: Path, run: Run) -> None:
    from toy_data import class_folders

    done = run("folder", "image", path=class_folders(tmp_path, {"a": 5, "b": 5}))
    split = done.split("train")
    for index, name in enumerate(split.ids):
        assert split.raw(index) == (tmp_path / name).read_bytes()
        assert split.labels[index] == "ab".index(name[0])
