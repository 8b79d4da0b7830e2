"""Key path -> line of a TOML file. `tomllib` keeps no places, so this reads headers and keys line by line.

Good for the way recipes are written (bare or quoted keys, dotted keys, tables, arrays of tables). Inside a value that
spans lines it answers with the line where the key stands.
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")

Path = tuple[str | int, ...]


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def lines(text: str) -> dict[Path, int]:
    """1-based line of every table header and key. An element of an array of tables has its index in the path."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            table = tuple(_parts(header[2]))
            if header[1] == "[[":
                found.setdefault(table, number)
                index = counts.get(table, 0)
                counts[table] = index + 1
                table = (*table, index)
            elif table[:-1] in counts:  # a sub-table of the last element of an array
                table = (*table[:-1], counts[table[:-1]] - 1, table[-1])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_parts(key[1])), number)
    return found


def line_of(path: Path, places: dict[Path, int]) -> int | None:
    """The line of `path`, else of the nearest table around it."""
    for end in range(len(path), 0, -1):
        if path[:end] in places:
            return places[path[:end]]
    return None


def spell(path: Path) -> str:
    """`compile[1].precision`"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
