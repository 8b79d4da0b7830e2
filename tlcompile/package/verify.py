"""Is a bundle what its manifest says: every file there, unchanged, and none besides.

The manifest vouches for the files and nobody for the manifest, so this finds damage, not forgery. Links are refused:
what they point to is not part of the bundle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tlcompile.errors import BundleError, Problem
from tlcompile.fingerprint import file_digest
from tlcompile.package import manifest as manifests
from tlcompile.package.manifest import Manifest


def verify(bundle: Path) -> list[str]:
    """Facts about the sound bundle in the folder `bundle`, as sentences; BundleError names every file that is not."""
    manifest = manifests.read(bundle)
    check_files(bundle, manifest)
    classes = f"{len(manifest.classes)} classes, " if manifest.classes else ""
    engines = ", ".join(engine.name for engine in manifest.engines)
    return [
        f"{manifest.name}: {manifest.task}, {classes}format {manifest.format}, "
        f"written by tlcompile {manifest.tlcompile}",
        f"{len(manifest.files)} files, {sum(manifest.sizes.values()) / 1e6:.1f} MB: all there, unchanged, none besides",
        f"engines in order of preference: {engines}",
        f"SHA-256 of manifest.json: {file_digest(bundle / manifests.NAME)}",
    ]


def check_files(bundle: Path, manifest: Manifest) -> None:
    """BundleError with every missing, changed, extra or linked file."""
    found = dict(walk(bundle))
    found.pop(manifests.NAME, None)
    problems = [*_differences(found, manifest), *_damaged_engines(manifest)]
    if problems:
        raise BundleError(*(Problem(str(bundle / path), what) for path, what in problems))


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(relative path, entry) of all that is not a folder below `folder`, sorted; follows no links."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                yield from walk(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry


def _differences(found: dict[str, os.DirEntry[str]], manifest: Manifest) -> Iterator[tuple[str, str]]:
    for path, digest in manifest.files.items():
        entry = found.get(path)
        if entry is None:
            yield path, "missing"
        elif not entry.is_file(follow_symlinks=False):
            yield path, "expected a plain file, found a link or a device"
        elif (size := entry.stat().st_size) != manifest.sizes[path]:
            yield path, f"changed: {size} bytes, the manifest says {manifest.sizes[path]}"
        elif (actual := file_digest(Path(entry.path))) != digest:
            yield path, f"changed: SHA-256 {actual[:16]}…, the manifest says {digest[:16]}…"
    for path in sorted(found.keys() - manifest.files.keys()):
        yield path, "not in the manifest"


def _damaged_engines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Engines whose folder the manifest has no files of."""
    for engine in manifest.engines:
        if not any(path.startswith(f"{engine.folder}/") for path in manifest.files):
            yield engine.folder, f"the folder of engine '{engine.name}': the manifest lists no file in it"
