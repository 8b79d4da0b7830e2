"""Unlabelled examples: what is read, what may join, what is written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import image
from tests.toy_training import splits_folder
from tlcompile.data import Split
from tlcompile.errors import DataError
from tlcompile.train import pseudo


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return splits_folder(tmp_path_factory.mktemp("pseudo"))


def unlabelled(root: Path, splits: Path) -> Path:
    """A test picture under another name and encoding, one of val, one of train, a broken file, and three new ones."""
    rng = np.random.default_rng(5)
    (root / "deep").mkdir(parents=True)
    for name in ("test", "val", "train"):
        Image.fromarray(np.asarray(Split(splits, name)[0])).save(root / f"{name}.bmp")
    for i in range(3):
        Image.fromarray(image(i % 2, rng)).save(root / "deep" / f"{i}.png")
    (root / "again.png").write_bytes((root / "deep" / "0.png").read_bytes())
    (root / "broken.png").write_bytes(b"no picture")
    return root


def test_what_is_in_test_or_val_is_left_out_by_its_pixels_whatever_it_is_called(splits: Path, tmp_path: Path) -> None:
    every = pseudo.read(unlabelled(tmp_path / "u", splits), "image")
    kept, left = pseudo.usable(every, splits)
    assert {every.ids[i] for i in kept} < {"again.png", "deep/0.png", "deep/1.png", "deep/2.png"}
    assert len(kept) == 3
    assert left == {"in test": 1, "in val": 1, "in train": 1, "twice": 1, "unreadable": 1}


def test_where_nothing_can_join_the_reasons_are_told(splits: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(Split(splits, "test")[1])).save(stream, "PNG")
    (tmp_path / "only.png").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match="none of its 1 examples can join: 1 in test"):
        pseudo.usable(pseudo.read(tmp_path, "image"), splits)


def test_texts_come_from_lines_columns_and_keys(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one film\n\ntwo films\n")
    (tmp_path / "b.csv").write_text('id,text\n1,"a, b"\n')
    (tmp_path / "c.jsonl").write_text('{"text": "c"}\n\n{"text": "d"}\n')
    assert pseudo.read(tmp_path / "a.txt", "text").items == ("one film", "two films")
    assert pseudo.read(tmp_path / "b.csv", "text").items == ("a, b",)
    assert list(pseudo.read(tmp_path / "c.jsonl", "text")) == ["c", "d"]
    (tmp_path / "long.csv").write_text("text\n" + "x" * 200_000)
    assert [len(text) for text in pseudo.read(tmp_path / "long.csv", "text")] == [200_000]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.doc", "x", "expected a file that ends in .txt, .csv, .jsonl"),
        ("a.csv", "words\nx\n", "a row has no 'text'"),
        ("a.jsonl", '{"text": ', "can't be read"),
        ("a.jsonl", "[1]\n", "a row has no 'text'"),
        ("a.txt", "\n\n", "holds no texts"),
        ("a.txt", "caf\udce9\n", "can't be read"),
        ("a.csv", "text\n" + "x" * (17 << 20), "can't be read"),
    ],
)
def test_a_file_that_holds_no_texts_is_told(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(DataError) as caught:
        pseudo.read(tmp_path / name, "text")
    assert says in str(caught.value)


def test_words_tell_texts_apart_not_their_case_or_spaces() -> None:
    assert pseudo.content("A  Film\n") == pseudo.content("a film") != pseudo.content("a filmy")
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert pseudo.content(pixels) != pseudo.content(pixels.reshape(3, 2, 3))


def test_the_surest_of_each_class_join_above_the_threshold() -> None:
    sure = np.array([[0.9, 0.1], [0.95, 0.05], [0.6, 0.4], [0.2, 0.8], [0.95, 0.05]])
    assert pseudo.choose(sure, 0.7, None).tolist() == [0, 1, 3, 4]
    assert pseudo.choose(sure, 0.7, 2).tolist() == [1, 3, 4]
    assert pseudo.choose(sure, 0.0, None).tolist() == [0, 1, 2, 3, 4]
    assert pseudo.choose(sure, 0.99, 5).tolist() == []


def test_what_is_written_is_the_training_split_and_the_new_examples(splits: Path, tmp_path: Path) -> None:
    every = pseudo.read(unlabelled(tmp_path / "u", splits), "image")
    new = [every.ids.index("deep/1.png"), every.ids.index("deep/2.png")]
    (tmp_path / "out").mkdir()
    pseudo.write(splits, every, new, np.array([1, 0]), tmp_path / "out")
    before, after = Split(splits, "train"), Split(tmp_path / "out", "train")
    assert after.labels.tolist() == [*before.labels.tolist(), 1, 0]
    assert after.ids[-2:] == ["unlabelled/deep/1.png", "unlabelled/deep/2.png"]
    assert after.raw(0) == before.raw(0)
    np.testing.assert_array_equal(after[len(before)], every[new[0]])
    np.testing.assert_array_equal(after.shapes, [*before.shapes.tolist(), [24, 32], [24, 32]])
    assert len(Split(tmp_path / "out", "test")) == len(Split(splits, "test"))


def test_known_labels_are_certain_among_soft_ones() -> None:
    found = pseudo.soft(np.array([1, 0]), 2, np.array([[0.5, 0.1]]))
    chances = np.exp(found) / np.exp(found).sum(-1, keepdims=True)
    np.testing.assert_allclose(chances[:2], [[0, 1], [1, 0]], atol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[2], [0.5, 0.1])
