"""Digests of content."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.fingerprint import StatCache, file_digest, text_digest, tree_digest

HOUR_NS = 3_600 * 10**9


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with three files, one of them hidden."""
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    (root / ".hidden").write_text("x")
    return root


@pytest.fixture
def memo(tmp_path: Path) -> StatCache:
    return StatCache(tmp_path / "memo")


def settle(tree: Path) -> None:
    """Wait until no file of the tree is fresh. `ctime` can't be set, so this takes the two seconds that it takes."""
    newest = max(file.stat().st_ctime_ns for file in tree.rglob("*"))
    while time.time_ns() - newest <= 2_000_000_000:
        time.sleep(0.05)


def notes(memo: StatCache) -> list[Path]:
    return sorted(memo.folder.glob("*")) if memo.folder.exists() else []


@given(st.binary())
def test_a_file_has_the_sha256_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("file") / "f"
    file.write_bytes(content)
    assert file_digest(file) == tree_digest(file) == hashlib.sha256(content).hexdigest()


def test_a_text_has_the_sha256_of_its_utf8() -> None:
    assert text_digest("ä") == hashlib.sha256("ä".encode()).hexdigest()


def test_a_touched_tree_has_the_same_digest(tree: Path) -> None:
    before = tree_digest(tree)
    os.utime(tree / "a.txt", ns=(HOUR_NS, HOUR_NS))
    assert tree_digest(tree) == before


def test_one_byte_changes_the_digest(tree: Path) -> None:
    before = tree_digest(tree)
    (tree / "sub" / "b.txt").write_text("c")
    assert tree_digest(tree) != before


def test_a_renamed_file_or_folder_changes_the_digest(tree: Path) -> None:
    before = tree_digest(tree)
    (tree / "a.txt").rename(tree / "c.txt")
    renamed = tree_digest(tree)
    assert renamed != before
    (tree / "sub").rename(tree / "sup")
    assert tree_digest(tree) not in (before, renamed)


def test_files_that_swap_their_content_change_the_digest(tree: Path) -> None:
    before = tree_digest(tree)
    (tree / "a.txt").write_text("b")
    (tree / "sub" / "b.txt").write_text("a")
    assert tree_digest(tree) != before


def test_where_the_tree_stands_and_hidden_files_do_not_count(tree: Path, tmp_path: Path) -> None:
    before = tree_digest(tree)
    (tree / ".hidden").write_text("y")
    (tree / ".git").mkdir()
    (tree / ".git" / "HEAD").write_text("z")
    assert tree_digest(tree.rename(tmp_path / "elsewhere")) == before


def test_a_link_counts_by_what_it_points_to(tree: Path, tmp_path: Path) -> None:
    before = tree_digest(tree)
    (tree / "a.txt").rename(tmp_path / "outside")
    (tree / "a.txt").symlink_to(tmp_path / "outside")
    assert tree_digest(tree) == before


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_a_name_like_others(tree: Path, memo: StatCache) -> None:
    before = tree_digest(tree)
    Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9.txt")).write_text("c")
    assert tree_digest(tree) == memo.digest(tree) != before


NAMES = st.text(st.sampled_from("ab\n"), min_size=1, max_size=3)
TREES = st.dictionaries(NAMES, st.binary(max_size=2), max_size=4)


@given(TREES, TREES)
def test_trees_have_one_digest_only_if_they_are_equal(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    digests = []
    for files in (one, other):
        root = tmp_path_factory.mktemp("tree")
        for name, content in files.items():
            (root / name).write_bytes(content)
        digests.append(tree_digest(root))
    assert (digests[0] == digests[1]) == (one == other)


def test_a_settled_tree_is_remembered(tree: Path, memo: StatCache) -> None:
    settle(tree)
    digest = memo.digest(tree)
    assert digest == tree_digest(tree)
    [note] = notes(memo)
    note.write_text(note.read_text().replace(digest, "from the memo"))
    assert memo.digest(tree) == "from the memo"


def test_fresh_files_are_not_trusted(tree: Path, memo: StatCache) -> None:
    before = memo.digest(tree)
    assert notes(memo) == []
    stat = (tree / "a.txt").stat()
    (tree / "a.txt").write_text("z")
    os.utime(tree / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert memo.digest(tree) == tree_digest(tree) != before


def test_a_changed_tree_is_read_again_though_size_and_mtime_are_the_same(tree: Path, memo: StatCache) -> None:
    settle(tree)
    before = memo.digest(tree)
    stat = (tree / "a.txt").stat()
    (tree / "a.txt").write_text("z")
    os.utime(tree / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert memo.digest(tree) == tree_digest(tree) != before


def test_a_touched_tree_is_read_again_and_has_the_same_digest(tree: Path, memo: StatCache) -> None:
    settle(tree)
    before = memo.digest(tree)
    os.utime(tree / "a.txt", ns=(HOUR_NS, HOUR_NS))
    assert memo.digest(tree) == before


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "{}", '{"listing": 3}', "\0\0\0"])
def test_a_damaged_memo_is_ignored_and_written_anew(tree: Path, memo: StatCache, damage: str) -> None:
    before = tree_digest(tree)
    os.utime(tree / "a.txt", ns=(HOUR_NS, HOUR_NS))
    memo.folder.mkdir()
    note = memo.folder / f"{text_digest(str(tree.resolve()))}.json"
    note.write_text(damage)
    assert memo.digest(tree) == before


def test_a_memo_that_lacks_its_digest_is_ignored(tree: Path, memo: StatCache) -> None:
    settle(tree)
    before = memo.digest(tree)
    [note] = notes(memo)
    kept = json.loads(note.read_text())
    note.write_text(json.dumps({"listing": kept["listing"]}))
    assert memo.digest(tree) == before
    assert json.loads(note.read_text()) == kept


def test_a_memo_that_can_t_be_written_is_done_without(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settle(tree)
    assert StatCache(tmp_path / "file" / "memo").digest(tree) == tree_digest(tree)
