"""JSON Schema of recipes, so that an editor completes keys and underlines mistakes."""

from __future__ import annotations

from typing import Any

from tlcompile import registry
from tlcompile.options import Options
from tlcompile.recipe import ensemble_tables, explore_table, tables
from tlcompile.recipe.train_table import TrainTable


def schema() -> dict[str, Any]:
    """Draft 2020-12, self-contained. A table shared with a plug-in lists one alternative for each plug-in."""
    head = _of(tables.HeadTable)
    head["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    head["title"] = "tlcompile recipe"
    data = _choice("data", "source", tables.DataTable)
    for alternative in data["oneOf"]:
        alternative["properties"]["task"] = {"enum": list(registry.names("tasks"))}
    head["properties"] |= {
        "data": data,
        "model": _choice("models", "library", None),
        "train": _of(TrainTable),
        "ensemble": _ensemble(),
        "tta": _of(ensemble_tables.TtaTable),
        "distill": _of(ensemble_tables.DistillTable),
        "pseudo_labels": _of(ensemble_tables.PseudoLabelsTable),
        "compress": _passes("compress"),
        "export": _of(tables.ExportTable),
        "optimize": _optimize(),
        "compile": {"type": "array", "items": _choice("compile", "backend", tables.TargetTable)},
        "evaluate": _of(tables.EvaluateTable),
        "gates": _of(tables.GatesTable),
    }
    head["required"] = [*head.get("required", []), "data", "model"]
    return head


def _ensemble() -> dict[str, Any]:
    """A member's `model` and `train` hold any keys of [model] and [train]."""
    found, member = _of(ensemble_tables.EnsembleTable), _of(ensemble_tables.MemberTable)
    keys = {"library": {"enum": list(registry.names("models"))}}
    for name in registry.names("models"):
        keys |= _of(registry.load("models", name).Options)["properties"]
    member["properties"]["model"] = {"type": "object", "properties": keys, "additionalProperties": False}
    member["properties"]["train"] = {**_of(TrainTable), "required": []}
    found["properties"]["member"] = {"type": "array", "items": member}
    return found


def _optimize() -> dict[str, Any]:
    found = _passes("optimize")
    found["properties"]["explore"] = {"oneOf": [{"type": "boolean"}, _of(explore_table.ExploreTable)]}
    return found


def _passes(room: str) -> dict[str, Any]:
    """A table that holds one table for each plug-in of `room` that is asked for."""
    known = {name: _of(registry.load(room, name).Options) for name in registry.names(room)}
    return {"type": "object", "properties": known, "additionalProperties": False}


def _choice(room: str, selector: str, common: type[Options] | None) -> dict[str, Any]:
    """One alternative for each plug-in of `room`: its selector, the common keys and its own."""
    alternatives = []
    for name in registry.names(room):
        own = _of(registry.load(room, name).Options)
        shared = _of(common) if common else {"properties": {}, "required": []}
        properties = {**shared["properties"], **own["properties"], selector: {"const": name}}
        required = {selector, *shared.get("required", []), *own.get("required", [])}
        alternatives.append(
            {"type": "object", "properties": properties, "required": sorted(required), "additionalProperties": False}
        )
    return {"oneOf": alternatives}


def _of(model: type[Options]) -> dict[str, Any]:
    """The schema of one table with its references written out."""
    raw = model.model_json_schema()
    definitions = raw.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                rest = {k: v for k, v in value.items() if k != "$ref"}
                return {**inline(definitions[value["$ref"].rsplit("/", 1)[-1]]), **rest}
            return {k: inline(v) for k, v in value.items()}
        return [inline(v) for v in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(raw)
    inlined.setdefault("properties", {})
    return inlined
