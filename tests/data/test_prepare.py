"""Facts about the data stage: which examples end in which file, what is written about them, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_data import Prepared, class_folders, jpeg

from tlcompile.fingerprint import tree_digest

Run = Callable[..., Prepared]
Told = Callable[..., str]


def test_without_a_split_of_its_own_a_source_is_cut_70_20_10(tmp_path: Path, run: Run) -> None:
    done = run("folder", "image", path=class_folders(tmp_path, {"a": 20, "b": 40}))
    assert done.info["counts"] == {"train": {"a": 14, "b": 28}, "val": {"a": 4, "b": 8}, "test": {"a": 2, "b": 4}}
    assert done.info["split_by"] == dict.fromkeys(("train", "val", "test"), "seeded share")
    ids = [name for split in ("train", "val", "test") for name in done.split(split).ids]
    assert sorted(ids) == sorted(f"{c}/{i:03}.jpg" for c, n in (("a", 20), ("b", 40)) for i in range(n))


def test_the_recipe_sets_the_shares(tmp_path: Path, run: Run) -> None:
    split = {"train": 0.5, "val": 0.25, "test": 0.25}
    assert run("folder", "image", path=class_folders(tmp_path, {"a": 20, "b": 40}), table={"split": split}).sizes == (
        30,
        15,
        15,
    )


@pytest.mark.parametrize(
    ("brought", "sizes", "seeded"),
    [
        ({"train": 27, "test": 5}, (42, 12, 10), {"train", "val"}),
        ({"train": 32, "dev": 5}, (56, 10, 8), {"train", "test"}),
        ({"train": 10, "valid": 3, "test": 2}, (20, 6, 4), set()),
        ({"Train": 20}, (28, 8, 4), {"train", "val", "test"}),
    ],
)
def test_only_the_splits_that_are_missing_are_carved_out_of_train(
    tmp_path: Path, run: Run, brought: dict[str, int], sizes: tuple[int, ...], seeded: set[str]
) -> None:
    for split, count in brought.items():
        class_folders(tmp_path / split, {"a": count, "b": count})
    done = run("folder", "image", path=tmp_path)
    assert done.sizes == sizes
    assert {name for name, by in done.info["split_by"].items() if by == "seeded share"} == seeded


def test_the_same_data_and_seed_give_the_same_bytes_and_another_seed_does_not(tmp_path: Path, run: Run) -> None:
    path = class_folders(tmp_path, {"a": 30, "b": 30})
    first, again, other = (run("folder", "image", path=path, seed=seed) for seed in (1, 1, 2))
    assert tree_digest(first.folder) == tree_digest(again.folder)
    assert first.split("test").ids != other.split("test").ids
    assert first.info["calibration"] != other.info["calibration"]


def test_data_json_says_all_that_the_doors_promise(tmp_path: Path, run: Run) -> None:
    done = run("folder", "image", path=class_folders(tmp_path, {"a": 20, "b": 20}), table={"calibration": 8})
    info = done.info
    assert list(info) == [
        "kind", "task", "labels", "source", "classes", "sizes", "counts", "split_by", "calibration", "notes", "skipped"
    ]  # fmt: skip
    assert (info["kind"], info["task"], info["source"]) == ("image", "image-classification", "folder")
    assert info["classes"] == ["a", "b"]
    labels = done.split("train").labels[info["calibration"]]
    assert np.bincount(labels).tolist() == [4, 4]


def test_classes_that_calibration_does_not_see_are_told(tmp_path: Path, run: Run) -> None:
    folders = class_folders(tmp_path, {"a": 100} | dict.fromkeys("bcdefghi", 10))
    [note] = run("folder", "image", path=folders, table={"calibration": 8}).info["notes"]
    assert note == "none of the 8 calibration examples is of e, f, g, h, i"
    assert run("folder", "image", path=folders, table={"calibration": 9}).info["notes"] == []


def test_calibration_takes_all_of_a_smaller_training_split(tmp_path: Path, run: Run) -> None:
    done = run("folder", "image", path=class_folders(tmp_path, {"a": 10, "b": 10}))
    assert sorted(done.info["calibration"]) == list(range(14))


def spoil(folder: Path) -> dict[str, str]:
    """Four broken images among the good ones: id -> what is said of it."""
    whole = jpeg(3, (64, 64))
    (folder / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "a" / "none.jpg").write_bytes(b"")
    (folder / "b" / "text.png").write_bytes(b"hello")
    (folder / "b" / "head.jpg").write_bytes(whole[:200])
    return {"a/cut.jpg": "damaged", "a/none.jpg": "0 bytes", "b/text.png": "not an image", "b/head.jpg": "damaged"}


def test_every_broken_image_is_named_at_once(tmp_path: Path, told: Told) -> None:
    broken = spoil(class_folders(tmp_path, {"a": 10, "b": 10}))
    said = told("folder", "image", path=tmp_path).splitlines()
    for name, why in broken.items():
        assert any(line.startswith(f"{name}: ") and why in line for line in said), (name, said)
    assert '4 of 24 examples are broken; mend or remove them, or leave them out with on_broken = "skip"' in said[-1]


def test_broken_images_are_skipped_and_counted_when_the_recipe_says_so(tmp_path: Path, run: Run) -> None:
    broken = spoil(class_folders(tmp_path, {"a": 10, "b": 10}))
    done = run("folder", "image", path=tmp_path, table={"on_broken": "skip"})
    assert {entry["id"] for entry in done.info["skipped"]} == set(broken)
    assert done.info["counts"] == {"train": {"a": 7, "b": 7}, "val": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}
    assert not {name for split in ("train", "val", "test") for name in done.split(split).ids} & set(broken)


def test_more_than_twenty_broken_ones_are_counted(tmp_path: Path, told: Told) -> None:
    class_folders(tmp_path, {"a": 30, "b": 30})
    for file in (tmp_path / "a").iterdir():
        file.write_bytes(b"")
    said = told("folder", "image", path=tmp_path)
    assert said.count("0 bytes") == 20
    assert "and 10 more" in said
    assert "30 of 60 examples are broken" in said


def test_a_class_that_is_too_small_is_named(tmp_path: Path, told: Told) -> None:
    said = told("folder", "image", path=class_folders(tmp_path, {"a": 1, "b": 2, "c": 9}))
    assert "class 'a' has 1 example; at least 3 are needed to have one each in train, val, test" in said
    assert "class 'b' has 2 examples; at least 3 are needed" in said
    assert "class 'c'" not in said


def test_a_class_may_be_smaller_where_less_is_carved(tmp_path: Path, run: Run, told: Told) -> None:
    class_folders(tmp_path / "train", {"a": 2, "b": 9})
    class_folders(tmp_path / "test", {"a": 1, "b": 1})
    assert run("folder", "image", path=tmp_path).info["counts"]["val"] == {"a": 1, "b": 2}
    (tmp_path / "train" / "a" / "000.jpg").unlink()
    said = told("folder", "image", path=tmp_path)
    assert "class 'a' has 1 example in train; at least 2 are needed to have one each in train, val" in said


def test_what_skipping_leaves_must_still_be_enough(tmp_path: Path, run: Run, told: Told) -> None:
    class_folders(tmp_path, {"a": 4, "b": 9})
    (tmp_path / "a" / "000.jpg").write_bytes(b"")
    assert run("folder", "image", path=tmp_path, table={"on_broken": "skip"}).info["counts"]["test"]["a"] == 1
    (tmp_path / "a" / "001.jpg").write_bytes(b"")
    said = told("folder", "image", path=tmp_path, table={"on_broken": "skip"})
    assert "class 'a' has 2 examples (2 broken ones were skipped); at least 3 are needed" in said


def test_one_class_only_is_refused(tmp_path: Path, told: Told) -> None:
    assert "one class only, 'a'; at least 2 are needed" in told(
        "folder", "image", path=class_folders(tmp_path, {"a": 9})
    )


def test_small_classes_and_broken_images_are_told_together(tmp_path: Path, told: Told) -> None:
    class_folders(tmp_path, {"a": 1, "b": 5, "c": 5})
    (tmp_path / "b" / "000.jpg").write_bytes(b"")
    said = told("folder", "image", path=tmp_path)
    assert "class 'a' has 1 example" in said
    assert "b/000.jpg: is empty (0 bytes)" in said


def test_a_given_split_whose_images_are_all_broken_is_refused(tmp_path: Path, told: Told) -> None:
    class_folders(tmp_path / "train", {"a": 5, "b": 5})
    for file in class_folders(tmp_path / "test", {"a": 1, "b": 1}).glob("*/*"):
        file.write_bytes(b"")
    assert "test has no examples" in told("folder", "image", path=tmp_path, table={"on_broken": "skip"})


def test_a_source_that_can_not_bring_what_the_task_needs_is_refused(tmp_path: Path, told: Told) -> None:
    said = told("folder", "text", path=tmp_path)
    assert said == "source 'folder' brings 'image'; task 'text-classification' learns from 'text'"


def test_empty_texts_and_half_characters_are_broken_examples(tmp_path: Path, run: Run, told: Told) -> None:
    rows = [{"text": f"word {i}", "label": "ab"[i % 2]} for i in range(12)]
    bad = [
        {"text": " \t", "label": "a"},
        {"text": None, "label": "b"},
        {"label": "b"},
        {"text": "\ud800", "label": "a"},
    ]
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + bad))
    said = told("jsonl", "text", path=path)
    assert said.count("is an empty text") == 3
    assert "all.jsonl:16: holds half of a surrogate pair" in said
    done = run("jsonl", "text", path=path, table={"on_broken": "skip"})
    assert [entry["id"] for entry in done.info["skipped"]] == [f"all.jsonl:{line}" for line in (13, 14, 15, 16)]
    assert sum(done.sizes) == 12


def test_a_class_that_a_given_split_lacks_is_noted(tmp_path: Path, run: Run) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"w{i},{'abc'[i % 3]}\n" for i in range(30)))
    (tmp_path / "test.csv").write_text("text,label\nx,a\ny,b\n")
    assert "test has no example of c" in run("csv", "text", path=tmp_path).info["notes"]


def test_a_class_that_train_lacks_is_refused(tmp_path: Path, told: Told) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"w{i},{'ab'[i % 2]}\n" for i in range(30)))
    (tmp_path / "test.csv").write_text("text,label\nx,a\ny,c\n")
    assert "class 'c' has no examples in train" in told("csv", "text", path=tmp_path)


def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Ten times the images, in a process of their own: decoded they would be 90 MB more, encoded 30 MB."""
    import subprocess
    import sys

    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    code = """
import resource, sys
from pathlib import Path
from tlcompile import progress, registry
from tlcompile.data import Split, prepare
from tlcompile.recipe.tables import DataTable
progress.quiet = True
folder = registry.load("data", "folder")
prepare(folder, folder.Options(path=sys.argv[1]), DataTable(task="t", source="folder"), "image", 0, Path(sys.argv[2]))
split = Split(Path(sys.argv[2]), "train")
assert sum(split.example(i).shape == (100, 100, 3) for i in range(len(split))) == len(split)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = []
    for count in (50, 1500):
        source, out = tmp_path / f"in{count}", tmp_path / f"out{count}"
        out.mkdir()
        class_folders(source, {"a": 0, "b": 0})
        for index in range(count):
            save_noise(noise, index, source / "ab"[index % 2] / f"{index}.png")
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(out)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 30, peaks


def save_noise(noise: np.ndarray, index: int, path: Path) -> None:
    """A PNG of 30 kB that no other index has."""
    from PIL import Image

    Image.fromarray(np.roll(noise, index)).save(path, compress_level=0)


def test_nothing_is_said_of_a_table_that_changed_between_readings(tmp_path: Path) -> None:
    from tlcompile.data._audit import aligned
    from tlcompile.data.csv import Options, load
    from tlcompile.errors import DataError

    file = tmp_path / "all.csv"
    file.write_text("text,label\na,x\nb,y\n")
    source: Any = load(Options(path=str(file)), "text", 0)
    file.write_text("text,label\na,x\nb,x\n")
    with pytest.raises(DataError, match="changed while it was read"):
        list(aligned(source, "all"))
