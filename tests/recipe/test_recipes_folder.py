"""The recipes that come with tlcompile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tlcompile.recipe import load, parse
from tlcompile.recipe.write import toml

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.toml"))
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_null(v) for k, v in value.items() if v is not None}
    return [without_null(v) for v in value] if isinstance(value, list) else value


def test_there_is_at_least_one() -> None:
    assert FOLDER / "quickstart.toml" in RECIPES


@every_recipe
def test_it_is_valid(path: Path) -> None:
    recipe = load(path)
    assert recipe.name
    assert recipe.targets


@every_recipe
def test_its_resolved_form_is_a_recipe_that_resolves_to_the_same(path: Path) -> None:
    resolved = load(path).resolved()
    again = parse(toml(resolved), path).resolved()
    assert without_null(again) == without_null(resolved)


@every_recipe
def test_its_name_is_not_that_of_another(path: Path) -> None:
    assert [load(other).name for other in RECIPES].count(load(path).name) == 1
