"""Facts about the source `folder`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from toy_data import Prepared, class_folders, jpeg

from tlcompile.data.folder import Options, load

Run = Callable[..., Prepared]
Told = Callable[..., str]


def test_classes_are_sorted_as_text(tmp_path: Path, run: Run) -> None:
    done = run("folder", "image", path=class_folders(tmp_path, {"10": 3, "9": 3, "B": 3, "a": 3}))
    assert done.info["classes"] == ["10", "9", "B", "a"]


def test_images_of_a_class_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    class_folders(tmp_path, {"b": 12, "a": 12})
    (tmp_path / "a" / "x").mkdir()
    (tmp_path / "a" / "x" / "0.jpg").write_bytes(jpeg())
    ids = [example.id for example in load(Options(path=str(tmp_path)), "image", 0).read("all")]
    assert ids == sorted(ids)
    assert len(ids) == 25


def test_suffixes_count_in_any_case_hidden_files_do_not_and_the_rest_is_noted(tmp_path: Path, run: Run) -> None:
    class_folders(tmp_path, {"a": 4, "b": 4}, ".JPG")
    (tmp_path / "a" / "._000.jpg").write_bytes(b"no image")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.jpg").write_bytes(b"no image")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "README").write_text("about")
    (tmp_path / "b" / "deeper").mkdir()
    (tmp_path / "b" / "deeper" / "x.jpeg").write_bytes(jpeg(1))
    done = run("folder", "image", path=tmp_path)
    assert sum(done.sizes) == 9
    assert done.info["notes"] == [
        "left out, because they are no images by their suffix or lie in no class folder (.db: 1, no suffix: 1): "
        "README, a/Thumbs.db"
    ]


def test_every_kind_of_image_is_taken_with_its_size_as_shown(tmp_path: Path, run: Run) -> None:
    """CMYK, 16-bit, palette and grey PNG, EXIF rotation, upper-case names: none of them is broken."""
    upright = Image.new("RGB", (8, 6), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "cmyk.jpg": (upright.convert("CMYK"), "JPEG", {}),
        "deep.png": (Image.fromarray(np.full((6, 8), 40_000, np.uint16)), "PNG", {}),
        "palette.png": (upright.convert("P"), "PNG", {}),
        "grey.PNG": (upright.convert("L"), "PNG", {}),
        "bit.png": (upright.convert("1"), "PNG", {}),
        "turned.jpg": (Image.new("RGB", (6, 8), "red"), "JPEG", {"exif": exif}),
    }
    for name, (image, form, options) in kinds.items():
        stream = io.BytesIO()
        image.save(stream, form, **options)
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(stream.getvalue())
    done = run("folder", "image", path=tmp_path)
    assert sum(done.sizes) == 12
    for split in map(done.split, ("train", "val", "test")):
        assert split.shapes.tolist() == [[6, 8]] * len(split)
        assert all(image.shape == (6, 8, 3) for image in split)


def test_folders_called_valid_and_invalid_are_classes_where_there_is_no_train(tmp_path: Path, run: Run) -> None:
    assert run("folder", "image", path=class_folders(tmp_path, {"valid": 4, "invalid": 4})).info["classes"] == [
        "invalid",
        "valid",
    ]


def test_a_folder_beside_the_splits_is_left_out_and_said(tmp_path: Path, run: Run) -> None:
    for split in ("train", "val", "test", "unlabelled"):
        class_folders(tmp_path / split, {"a": 2, "b": 2})
    done = run("folder", "image", path=tmp_path)
    assert done.sizes == (4, 4, 4)
    assert done.info["notes"] == ["left out, because their names say no split: unlabelled"]


def test_two_folders_of_one_split_are_refused(tmp_path: Path, told: Told) -> None:
    for split in ("train", "val", "validation"):
        class_folders(tmp_path / split, {"a": 2, "b": 2})
    assert "val and validation are both val; keep one" in told("folder", "image", path=tmp_path)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, told: Told) -> None:
    (class_folders(tmp_path, {"a": 4, "b": 4}) / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert "a/gone.jpg: can't be read: No such file or directory" in told("folder", "image", path=tmp_path)


def test_class_lists_that_differ_are_told_with_the_nearest_name(tmp_path: Path, told: Told) -> None:
    class_folders(tmp_path / "train", {"roses": 3, "tulips": 3, "daisy": 3})
    class_folders(tmp_path / "test", {"rose": 1, "tulips": 1})
    assert told("folder", "image", path=tmp_path).splitlines() == [
        f"{tmp_path}/test: class 'rose' is not among the classes of train; did you mean 'roses'?",
        f"{tmp_path}/test: has no folder of class 'daisy', which train has",
    ]


def test_a_class_folder_without_images_is_a_class_without_examples(tmp_path: Path, told: Told) -> None:
    class_folders(tmp_path, {"a": 4, "b": 4, "c": 0})
    assert "class 'c' has no examples; at least 3 are needed" in told("folder", "image", path=tmp_path)


def test_nothing_found_says_what_was_expected(tmp_path: Path, told: Told) -> None:
    assert "holds no class folders; expected" in told("folder", "image", path=tmp_path)
    (tmp_path / "a").mkdir()
    assert "no examples were found" in told("folder", "image", path=tmp_path)
    (tmp_path / "x.jpg").write_bytes(jpeg())
    assert "is a file; source 'folder' reads a folder" in told("folder", "image", path=tmp_path / "x.jpg")
