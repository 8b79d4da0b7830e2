"""The JSON Schema of recipes. It is written for editors; `load` is the judge."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tlcompile import registry
from tlcompile.recipe.load import TABLES
from tlcompile.recipe.schema import schema

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(part)


def alternatives(node: dict[str, Any]) -> list[dict[str, Any]]:
    return node.get("oneOf") or node.get("anyOf") or [node]


def covered(value: Any, node: dict[str, Any]) -> bool:
    """Whether the schema `node` names all keys of `value`, tells its type and lets its constants through."""
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    for choice in alternatives(node):
        if "const" in choice or "enum" in choice:
            if value in choice.get("enum", [choice.get("const")]):
                return True
            continue
        kind = choice["type"]
        if not isinstance(value, kinds.get(kind, ())) or isinstance(value, bool) != (kind == "boolean"):
            continue
        if all(covered(part, place) for part, place in parts(value, choice)):
            return True
    return False


def parts(value: Any, node: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Each part of `value` with its schema; one that nothing covers stands for a key unknown or missing."""
    if isinstance(value, list):
        return [(part, node["items"]) for part in value]
    if not isinstance(value, dict):
        return []
    if not set(node.get("required", ())) <= set(value) <= set(node["properties"]):
        return [(None, {"enum": []})]
    return [(part, node["properties"][key]) for key, part in value.items()]


def test_it_is_json_of_draft_2020_12_and_refers_to_nothing_outside() -> None:
    made = schema()
    assert json.loads(json.dumps(made)) == made
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert not [node for node in nodes(made) if "$ref" in node or "$defs" in node]


def test_it_has_every_table_and_requires_what_load_requires() -> None:
    made = schema()
    assert set(made["properties"]) == {"name", "seed", *TABLES}
    assert sorted(made["required"]) == ["data", "model", "name"]


def test_every_table_refuses_unknown_keys() -> None:
    tables = [node for node in nodes(schema()) if node.get("type") == "object"]
    assert len(tables) > 15
    assert all(node["additionalProperties"] is False for node in tables)


@pytest.mark.parametrize(
    ("room", "selector", "place"),
    [("data", "source", ["data"]), ("models", "library", ["model"]), ("compile", "backend", ["compile", "items"])],
)
def test_a_table_with_a_plugin_has_one_alternative_for_each(room: str, selector: str, place: list[str]) -> None:
    node = schema()["properties"]
    for step in place:
        node = node[step]
    assert [choice["properties"][selector]["const"] for choice in node["oneOf"]] == list(registry.names(room))
    assert all(selector in choice["required"] for choice in node["oneOf"])


def test_tasks_and_passes_are_those_of_the_registry() -> None:
    properties = schema()["properties"]
    tasks = [choice["properties"]["task"]["enum"] for choice in properties["data"]["oneOf"]]
    assert all(found == list(registry.names("tasks")) for found in tasks)
    assert set(properties["optimize"]["properties"]) == {*registry.names("optimize"), "explore"}


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_of_every_recipe_is_covered(path: Path) -> None:
    assert covered(tomllib.loads(path.read_text()), schema())


@pytest.mark.parametrize(
    "change", [{"seed": "1"}, {"sede": 1}, {"data": {"source": "csv"}}, {"train": {"epochs": True}}]
)
def test_a_mistake_is_not_covered(change: dict[str, Any]) -> None:
    recipe = tomllib.loads((ROOT / "recipes" / "quickstart.toml").read_text())
    assert not covered({**recipe, **change}, schema())
