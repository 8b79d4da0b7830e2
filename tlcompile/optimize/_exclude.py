"""The nodes that a recipe names, one by one or by pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tlcompile.errors import Problem, RecipeError, nearest

if TYPE_CHECKING:
    import onnx


def named(graph: onnx.GraphProto, patterns: Sequence[str], where: str) -> set[str]:
    """Names of the nodes that `patterns` match; RecipeError with the nearest name for each that matches none."""
    from fnmatch import fnmatchcase

    names = [n.name for n in graph.node]
    matched = {pattern: [n for n in names if n == pattern or fnmatchcase(n, pattern)] for pattern in patterns}
    unknown = [pattern for pattern, found in matched.items() if not found]
    if unknown:
        key = f"{where}.exclude"
        raise RecipeError(*(Problem(key, f"the graph has no node '{n}'", nearest(n, names)) for n in unknown))
    return set().union(*matched.values())
