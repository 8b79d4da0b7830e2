"""The files of a table on disk: which belongs to which split, and lines of UTF-8 text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tlcompile.data._source import ALL, SPLITS, Problems, left_out, located, printable, splits_in
from tlcompile.errors import DataError, Problem, one_of


def split_files(path: str, suffixes: Sequence[str]) -> tuple[dict[str, list[Path]], list[str]]:
    """(split -> its files sorted, notes) of an option's `path`, a file or a folder.

    A file belongs to the split that its name mentions, else that of its nearest folder. Where none mentions any, all
    files together are one table without splits; where some do, the others are left out and the note says so.
    """
    root = located(path)
    if root.is_file():
        return {ALL: [root]}, []
    found: dict[str, list[Path]] = {}
    problems = Problems()
    files = (f for f in root.rglob("*") if f.suffix.lower() in suffixes and f.is_file())
    every = sorted(f for f in files if not _hidden(f.relative_to(root)))
    for file in every:
        names = _splits_of(file.relative_to(root))
        if len(names) > 1:
            problems.add(str(file), f"its name mentions {' and '.join(names)}; name it after one of them")
        found.setdefault(names[0] if names else "", []).append(file)
    problems.check()
    if not every:
        raise DataError(Problem(str(root), f"no file ends in {one_of(suffixes)}"))
    rest = found.pop("", [])
    if not found:
        found, rest = {ALL: rest}, []
    notes = [f"{split} is {len(files)} files" for split, files in found.items() if len(files) > 1]
    if rest:
        notes.append(left_out(name_of(f, root) for f in rest))
    return {split: found[split] for split in (*SPLITS, ALL) if split in found}, notes


def name_of(file: Path, root: Path) -> str:
    """How a file is called in ids and messages: relative to the source's folder."""
    return printable(file.relative_to(root).as_posix() if file != root else file.name)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _splits_of(relative: Path) -> list[str]:
    for part in (relative.stem, *reversed(relative.parts[:-1])):
        if names := splits_in(part):
            return names
    return []


def lines(file: Path, name: str, problems: Problems) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, without a byte-order mark. Stops at the first that is not UTF-8."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
                what = f"is not UTF-8 text ({byte}); save the file as UTF-8"
                problems.add(f"{name}:{number}", what)
                return
