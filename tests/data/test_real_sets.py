"""The real sets of the README load with the counts that it states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_data import Prepared

from tlcompile import registry

AG_NEWS = {"columns": ["label", "title", "description"], "text": ["title", "description"]}


@pytest.mark.parametrize(
    ("source", "kind", "path", "options", "sizes", "classes"),
    [
        ("folder", "image", "flowers", {}, (1540, 331, 331), 5),
        ("folder", "image", "cifar10_folder", {}, (1170, 330, 500), 10),
        ("csv", "text", "sst2", {}, (6920, 872, 1821), 2),
        ("csv", "text", "ag_news", AG_NEWS, (4728, 1352, 1520), 4),
        ("csv", "text", "banking77", {}, (7779, 2224, 3080), 77),
        ("csv", "text", "chnsenticorp_hotel", {}, (5436, 776, 1553), 2),
        ("jsonl", "text", "sib200/arb_Arab", {}, (701, 99, 204), 7),
    ],
)
def test_it_is_split_as_it_says(
    source: str, kind: str, path: str, options: dict[str, Any], sizes: tuple[int, ...], classes: int,
    test_data: Path, run: Callable[..., Prepared],
) -> None:  # fmt: skip
    done = run(source, kind, path=test_data / path, **options)
    assert done.sizes == sizes
    assert len(done.info["classes"]) == classes
    assert done.info["skipped"] == []


@pytest.mark.parametrize(
    ("source", "path", "sizes"),
    [
        ("parquet", "cifar10_small", {"train": 10_000, "val": 2_000, "test": 2_000}),
        ("parquet", "cifar10", {"train": 50_000, "test": 10_000}),
        ("folder", "sign_digits", {"all": 2_062}),
    ],
)
def test_it_has_the_labels_it_should(source: str, path: str, sizes: dict[str, int], test_data: Path) -> None:
    module = registry.load("data", source)
    found = module.load(module.Options(path=str(test_data / path)), "image", 0)
    assert {split: len(labels) for split, labels in found.labels.items()} == sizes
    assert len(found.classes) == 10


def test_quoted_newlines_of_banking77_stay_in_their_text(test_data: Path) -> None:
    module = registry.load("data", "csv")
    source = module.load(module.Options(path=str(test_data / "banking77")), "text", 0)
    assert sum("\n" in str(example.data) for example in source.read("train")) >= 10
    assert "card_arrival" in source.classes


def test_phone_photos_of_sign_digits_are_turned_upright(test_data: Path) -> None:
    from tlcompile.runtime.images import decode

    large = [f for f in (test_data / "sign_digits" / "7").iterdir() if f.stat().st_size > 1_000_000]
    assert len(large) == 3
    assert decode(large[0].read_bytes()).shape == (3024, 3024, 3)
