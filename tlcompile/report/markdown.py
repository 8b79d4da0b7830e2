"""Markdown that survives any text in it, and numbers as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; columns in which no row says anything are left out, and without rows there is none."""
    rows = [[cell(text) for text in row] for row in rows]
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    if not kept:
        return []
    lines = [[heads[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|").replace("<", "&lt;").strip()


def code(text: object) -> str:
    """A name, shown as it is."""
    return "`" + str(text).replace("`", "'") + "`" if str(text) else ""


def number(value: Any, form: str = "", unit: str = "") -> str:
    """`value` in the format `form` with its unit; '' where it is absent."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:{form}}{unit}" if form else f"{value:g}{unit}"


def words(value: Any) -> str:
    """Any JSON value in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(words(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, value in words) of a nested table; lists of plain values stay in one line."""
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [pair for i, inner in enumerate(value) for pair in flat(inner, f"{prefix}[{i}]")]
    return [(prefix, words(value))]
