"""The content-addressed store."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_store
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.errors import RecipeError
from tlcompile.store import Key, Store

KEY = Key("train", {"seed": 17, "table": {"lr": 0.1, "epochs": 5}, "inputs": {"data": "d1"}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def writes(text: str = "made") -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "out.txt").write_text(text)

    return fill


def never(folder: Path) -> None:
    raise AssertionError("made again")


def left_in(store: Store) -> list[str]:
    """Every file and folder of the store but locks."""
    found = (path.relative_to(store.root).as_posix() for path in store.root.rglob("*"))
    return sorted(name for name in found if not name.startswith("lock"))


def changed(**parts: Any) -> Key:
    return Key("train", {**KEY.parts, **parts})


def test_the_same_parts_are_made_once(store: Store) -> None:
    first = store.make(KEY, writes())
    again = store.make(Key("train", dict(KEY.parts)), never)
    assert (first.cached, again.cached) == (False, True)
    assert (again.folder, again.digest, again.seconds) == (first.folder, first.digest, first.seconds)
    assert (again.folder / "out.txt").read_text() == "made"


def test_an_entry_is_found_by_another_store_of_the_same_folder(store: Store) -> None:
    store.make(KEY, writes())
    assert Store(store.root).find(KEY) is not None


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (changed(seed=18), ["seed: 17 -> 18"]),
        (changed(table={"lr": 0.2, "epochs": 5}), ["table.lr: 0.1 -> 0.2"]),
        (changed(table={"lr": 0.2, "epochs": 6}), ["table.lr: 0.1 -> 0.2", "table.epochs: 5 -> 6"]),
        (changed(table={"lr": 0.1}), ["table.epochs: 5 -> (absent)"]),
        (changed(inputs={"data": "d2"}), ['inputs.data: "d1" -> "d2"']),
        (changed(device="gpu"), ['device: (absent) -> "gpu"']),
        (changed(seed="17"), ['seed: 17 -> "17"']),
        (changed(table={}), ["table: (absent) -> {}", "table.lr: 0.1 -> (absent)", "table.epochs: 5 -> (absent)"]),
    ],
)
def test_each_different_part_is_a_miss_and_is_named_with_old_and_new(store: Store, key: Key, why: list[str]) -> None:
    store.make(KEY, writes(), "toy/train")
    assert store.find(key) is None
    assert store.why(key, "toy/train") == why


def test_the_stage_is_part_of_the_key(store: Store) -> None:
    store.make(KEY, writes())
    other = Key("export", KEY.parts)
    assert store.find(other) is None
    assert other.digest != KEY.digest
    assert store.why(other, "") == ["never made in this store"]


def test_a_store_that_is_not_there_was_never_made_in(store: Store) -> None:
    assert store.find(KEY) is None
    assert store.why(KEY, "toy/train") == ["never made in this store"]


def test_the_order_of_parts_does_not_count() -> None:
    assert Key("train", dict(reversed(KEY.parts.items()))).digest == KEY.digest


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.text("ab", max_size=2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.text("ab", min_size=1, max_size=1), inner, max_size=2),
    max_leaves=4,
)
PARTS = st.dictionaries(st.text("ab", min_size=1, max_size=1), VALUES, max_size=2)


@given(PARTS, PARTS)
def test_keys_have_one_digest_only_if_their_parts_are_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (Key("s", one).digest == Key("s", other).digest) == same


@given(st.text(), st.text(), st.text("ab"), st.text("ab"))
def test_a_part_can_t_be_written_so_that_it_looks_like_two(a: str, b: str, x: str, y: str) -> None:
    assert Key("s", {"x": f"{a}\n{x}", "y": b}).digest != Key("s", {"x": a, "y": f"{b}\n{y}"}).digest


def test_why_compares_with_the_newest_entry_of_the_same_label(store: Store) -> None:
    ours = store.make(changed(seed=1), writes(), "toy/train")
    store.make(changed(seed=2), writes(), "other/train")
    note = ours.folder.parent / "entry.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "made": 0}))
    assert store.why(KEY, "toy/train") == ["seed: 1 -> 17"]
    assert store.why(KEY, "third/train") == ["seed: 2 -> 17"]


def test_an_entry_keeps_its_parts_its_label_and_its_time(store: Store) -> None:
    place = store.make(KEY, writes(), "toy/train").folder.parent
    assert json.loads((place / "key.json").read_text()) == {
        "seed": "17",
        "table.lr": "0.1",
        "table.epochs": "5",
        "inputs.data": '"d1"',
    }
    entry = json.loads((place / "entry.json").read_text())
    assert entry["label"] == "toy/train"
    assert entry["seconds"] >= 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_and_is_passed_on(store: Store, error: type[BaseException]) -> None:
    def fill(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise error

    with pytest.raises(error):
        store.make(KEY, fill)
    assert store.find(KEY) is None
    assert left_in(store) == ["train"]


def test_a_failure_can_be_followed_by_success(store: Store) -> None:
    with pytest.raises(AssertionError):
        store.make(KEY, never)
    assert not store.make(KEY, writes()).cached


def test_what_a_killed_run_left_is_cleared(store: Store) -> None:
    left = store.root / "train" / f"{KEY.digest}.tmp" / "out"
    left.mkdir(parents=True)
    (left / "half.txt").write_text("half")
    assert store.find(KEY) is None
    entry = store.make(KEY, writes())
    assert [file.name for file in entry.folder.iterdir()] == ["out.txt"]
    assert not left.parent.exists()


def test_equal_output_has_an_equal_digest_whatever_the_key(store: Store) -> None:
    one, other, third = (store.make(changed(seed=seed), writes(text)) for seed, text in ((1, "x"), (2, "x"), (3, "y")))
    assert one.digest == other.digest != third.digest
    assert one.folder != other.folder


def test_fresh_makes_it_again_and_replaces_it(store: Store) -> None:
    store.make(KEY, writes("old"))
    entry = store.make(KEY, writes("new"), fresh=True)
    assert not entry.cached
    assert (entry.folder / "out.txt").read_text() == "new"
    found = store.find(KEY)
    assert found is not None
    assert found.digest == entry.digest


def test_a_fresh_one_that_fails_leaves_the_old_one(store: Store) -> None:
    store.make(KEY, writes("old"))
    with pytest.raises(AssertionError):
        store.make(KEY, never, fresh=True)
    found = store.find(KEY)
    assert found is not None
    assert (found.folder / "out.txt").read_text() == "old"


def test_the_work_folder_outlives_a_failure_and_goes_when_the_entry_is_made(store: Store) -> None:
    def fails(folder: Path) -> None:
        (store.work(KEY) / "epoch-1").write_text("weights")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - it is the one raised above
        store.make(KEY, fails)
    assert (store.work(KEY) / "epoch-1").read_text() == "weights"
    other = changed(seed=1)
    (store.work(other) / "epoch-1").touch()
    store.make(KEY, writes())
    assert not (store.root / "work" / KEY.digest).exists()
    assert (store.work(other) / "epoch-1").exists()


def test_what_went_on_after_an_interrupt_took_the_time_of_both_runs(store: Store) -> None:
    def interrupted(folder: Path) -> None:
        (store.work(KEY) / "epoch-1").write_text("weights")
        time.sleep(0.2)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.make(KEY, interrupted)
    assert store.make(KEY, writes()).seconds >= 0.4
    assert list((store.root / "work").iterdir()) == []
    assert store.make(KEY, writes(), fresh=True).seconds < 0.4, "nothing of it is left"


def test_two_processes_at_once_make_it_once(store: Store, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.mkdir()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(toy_store.make_slowly, [(str(store.root), str(ready))] * 2, chunksize=1)
    assert len(list(ready.iterdir())) == 1
    assert sorted(cached for _, cached in found) == [False, True]
    assert len({digest for digest, _ in found}) == 1


def test_a_store_that_is_not_writable_is_a_recipe_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "store"
    assert Store(root).find(KEY) is None
    assert Store(root).why(KEY, "") == ["never made in this store"]
    with pytest.raises(RecipeError) as caught:
        Store(root).make(KEY, never)
    assert str(caught.value) == f"{root}: the store is not writable: Not a directory"


@pytest.mark.parametrize("damage", ["", "{}", "[]", "\0\0\0"])
def test_a_damaged_entry_is_made_again(store: Store, damage: str) -> None:
    note = store.make(KEY, writes("old")).folder.parent / "entry.json"
    note.write_text(damage)
    assert store.find(KEY) is None
    assert store.why(KEY, "") == ["never made in this store"]
    assert (store.make(KEY, writes("new")).folder / "out.txt").read_text() == "new"


def test_the_lock_of_a_dead_process_is_free(store: Store) -> None:
    (store.root / "lock").mkdir(parents=True)
    (store.root / "lock" / KEY.digest).write_text(str(os.getpid()))
    assert not store.make(KEY, writes()).cached
