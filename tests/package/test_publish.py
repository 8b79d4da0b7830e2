from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_bundle

from tlcompile.errors import BundleError, RecipeError
from tlcompile.package.publish import check_writable, publish
from tlcompile.package.verify import verify


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "dist").mkdir()
    return tmp_path / "dist" / "toy"


def other(bundle: Path) -> Path:
    """The bundle as another build would have made it."""
    toy_bundle.rewrite_manifest(bundle, provenance={"seed": 18})
    return bundle


def test_a_bundle_is_published_whole_with_no_trace_besides(built: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "dist" / "toy"
    check_writable(output)
    assert not output.parent.exists()
    assert publish(built, output)
    verify(output)
    assert [path.name for path in output.parent.iterdir()] == ["toy"]


def test_the_same_bundle_is_not_copied_again(built: Path, place: Path) -> None:
    publish(built, place)
    before = (place / "model.onnx").stat().st_ino
    assert not publish(built, place)
    assert (place / "model.onnx").stat().st_ino == before


def test_a_published_bundle_that_lost_a_file_is_made_whole_again(built: Path, place: Path) -> None:
    publish(built, place)
    (place / "labels.json").write_text("[]")
    assert publish(built, place)
    verify(place)


def test_an_older_bundle_is_replaced(built: Path, bundle: Path, place: Path) -> None:
    publish(other(bundle), place)
    assert publish(built, place)
    assert (place / "manifest.json").read_bytes() == (built / "manifest.json").read_bytes()
    assert [path.name for path in place.parent.iterdir()] == ["toy"]


def test_a_bundle_that_was_run_with_bytecode_is_replaced(built: Path, bundle: Path, place: Path) -> None:
    publish(other(bundle), place)
    (place / "runtime" / "tlcompile" / "__pycache__").mkdir()
    (place / "runtime" / "tlcompile" / "__pycache__" / "errors.pyc").write_bytes(b"")
    assert publish(built, place)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, built: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(RecipeError, match="holds files and is not a bundle of tlcompile"):
        check_writable(tmp_path / "thesis")
    with pytest.raises(RecipeError, match="holds files and is not a bundle of tlcompile"):
        publish(built, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_a_file_that_somebody_put_into_a_bundle_is_not_lost(built: Path, bundle: Path, place: Path) -> None:
    publish(other(bundle), place)
    (place / "notes.txt").write_text("what I found")
    with pytest.raises(RecipeError, match=r"would be lost: notes\.txt"):
        publish(built, place)
    assert (place / "notes.txt").exists()


def test_an_empty_folder_is_filled_and_a_file_or_a_link_is_refused(built: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    publish(built, tmp_path / "empty")
    verify(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(RecipeError, match="is not a folder"):
            check_writable(tmp_path / name)


@pytest.mark.parametrize("output", ["/proc/tlcompile/toy", "{}/file/toy"])
def test_a_place_that_cannot_be_written_gets_a_sentence_before_any_work(
    tmp_path: Path, output: str, built: Path
) -> None:
    if output.startswith("/proc") and sys.platform != "linux":
        pytest.skip("there is no /proc here")
    (tmp_path / "file").write_text("")
    place = Path(output.format(tmp_path))
    with pytest.raises(RecipeError, match="the output folder is not writable"):
        check_writable(place)
    with pytest.raises(RecipeError, match="the output folder is not writable"):
        publish(built, place)


def test_a_damaged_build_is_not_published_over_a_good_bundle(built: Path, bundle: Path, place: Path) -> None:
    publish(built, place)
    other(bundle)
    (bundle / "model.onnx").write_bytes(b"half")
    with pytest.raises(BundleError, match=r"model\.onnx: changed"):
        publish(bundle, place)
    verify(place)
    assert [path.name for path in place.parent.iterdir()] == ["toy"]


def dead_process() -> int:
    """The id of a process that is over."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_what_a_killed_publisher_left_is_cleared_and_its_old_bundle_put_back(built: Path, place: Path) -> None:
    pid = dead_process()
    shutil.copytree(built, place.with_name(f".toy.{pid}.old"))
    place.with_name(f".toy.{pid}.new").mkdir()
    assert publish(built, place)
    assert [path.name for path in place.parent.iterdir()] == ["toy"]


def test_what_a_running_publisher_makes_is_left_alone(built: Path, place: Path) -> None:
    theirs = place.with_name(f".toy.{os.getppid()}.new")
    theirs.mkdir()
    publish(built, place)
    assert theirs.exists()
