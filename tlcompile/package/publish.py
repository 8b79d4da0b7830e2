"""Put a finished bundle in its place: whole or not at all, and never over something that is not a bundle.

The copy is made beside the place and renamed into it, so whoever looks there finds the old bundle or the new one. An
older bundle steps aside by a rename just before; a process killed between the two renames leaves it as `.NAME.PID.old`,
and the next one puts it back before it begins.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from pathlib import Path

from tlcompile.errors import BundleError, Problem, RecipeError
from tlcompile.package import manifest as manifests
from tlcompile.package.verify import verify, walk


def check_writable(output: Path) -> None:
    """RecipeError unless a bundle could be published at `output`: asked before any work."""
    _check_replaceable(output)
    ancestor = output.absolute().parent
    while not ancestor.exists():
        ancestor = ancestor.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".tlcompile-", dir=ancestor):
            pass
    except OSError as error:
        raise _not_writable(output, error) from error


def publish(built: Path, output: Path) -> bool:
    """Copy the bundle `built` to `output` in one step; False where the same bundle is there already.

    RecipeError where `output` is not writable or is another's, BundleError where `built` or its copy is damaged.
    """
    if _same(built, output):
        return False
    _check_replaceable(output)
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(output)
        copy = output.with_name(f".{output.name}.{os.getpid()}.new")
        try:
            shutil.copytree(built, copy)
            verify(copy)
            _swap(copy, output)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    except OSError as error:
        raise _not_writable(output, error) from error
    return True


def _same(built: Path, output: Path) -> bool:
    """Whether `output` has the manifest of `built` and all of its files at their sizes."""
    manifest = built / manifests.NAME
    try:
        if (output / manifests.NAME).read_bytes() != manifest.read_bytes():
            return False
        sizes = manifests.read(built).sizes
        return all((output / path).lstat().st_size == size for path, size in sizes.items())
    except OSError:
        return False


def _swap(copy: Path, output: Path) -> None:
    if not output.exists():
        copy.rename(output)
        return
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    output.rename(old)
    try:
        copy.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(output: Path) -> None:
    """RecipeError unless `output` is absent, an empty folder, or a bundle with nothing foreign in it."""
    if not output.exists() and not output.is_symlink():
        return
    if output.is_symlink() or not output.is_dir():
        raise RecipeError(Problem(str(output), "is not a folder; a bundle will not replace it"))
    found = {path for path, _ in walk(output)}
    if not found:
        return
    try:
        ours = {manifests.NAME, *manifests.read(output).files}
    except BundleError as error:
        what = "holds files and is not a bundle of tlcompile; choose another output or move it away"
        raise RecipeError(Problem(str(output), what), *error.problems) from error
    foreign = sorted(path for path in found - ours if "__pycache__" not in path.split("/"))
    if foreign:
        what = f"holds files that are not of the bundle and would be lost: {', '.join(foreign[:5])}"
        raise RecipeError(Problem(str(output), what + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")))


def _clear_leftovers(output: Path) -> None:
    """Undo what publishers of `output` left beside it when they were killed."""
    import psutil

    for left in output.parent.glob(f".{glob.escape(output.name)}.*.*"):
        pid, kind = left.name.split(".")[-2:]
        if kind not in ("new", "old") or not pid.isdecimal():
            continue
        if int(pid) != os.getpid() and psutil.pid_exists(int(pid)):
            continue
        if kind == "old" and not output.exists():
            left.rename(output)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _not_writable(output: Path, error: OSError) -> RecipeError:
    return RecipeError(Problem(str(output), f"the output folder is not writable: {error.strerror or error}"))
