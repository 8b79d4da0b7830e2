"""The smallest recipe, and ways to ask what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlcompile.errors import RecipeError
from tlcompile.recipe import parse

SMALLEST = """\
name = "toy"

[data]
task = "image-classification"
source = "sklearn"

[model]
library = "timm"
name = "resnet18"
"""


def mistakes(text: str, path: Path = Path("toy.toml")) -> list[str]:
    """What is said about a recipe that is wrong, one line a problem, in the order in which it is said."""
    with pytest.raises(RecipeError) as caught:
        parse(text, path)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def mistake(text: str) -> str:
    """The one thing that is said about a recipe with one mistake."""
    [only] = mistakes(text)
    return only


def with_lines(*lines: str) -> str:
    """The smallest recipe (9 lines) and `lines` after it: the first of them is line 10."""
    return SMALLEST + "\n".join(lines) + "\n"


def replaced(old: str, new: str) -> str:
    """The smallest recipe with a line changed."""
    assert SMALLEST.count(f"{old}\n") == 1
    return SMALLEST.replace(f"{old}\n", f"{new}\n")
