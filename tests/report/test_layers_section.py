"""What the report says of the layers that a library made of a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlcompile.artifacts import write_json
from tlcompile.pipeline.facts import layers
from tlcompile.report.page import page
from tlcompile.store import Entry


def layer(name: str, *inputs: str) -> dict[str, Any]:
    return {"name": name, "kind": "CaskConvolution", "tactic": f"sm86_{name}", "inputs": list(inputs)}


def test_every_plan_of_the_engines_that_ship_is_listed(tmp_path: Path) -> None:
    for place in ("a/layers", "b/layers-sm86", "b/layers-sm89-sm120", "c/first/layers-sm86", "d/layers"):
        file = tmp_path / f"{place}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, [layer(place)])
    rows: list[dict[str, Any]] = [{"engine": f"compile/{name}/fp32", "chosen": name != "d"} for name in "abcd"]
    made = {f"compile/{name}/fp32": Entry(tmp_path / name, "", 1.0) for name in "abcd"}
    found = layers(rows, made)
    assert {plan: rows[0]["name"] for plan, rows in found.items()} == {
        "compile/a/fp32": "a/layers",
        "compile/b/fp32 sm86": "b/layers-sm86",
        "compile/b/fp32 sm89 sm120": "b/layers-sm89-sm120",
        "compile/c/fp32 first sm86": "c/first/layers-sm86",
    }


def test_the_first_layers_are_a_table_and_all_are_counted() -> None:
    rows = [layer(f"conv{i}", "Half" if i else "Float", "Half") for i in range(40)] + [layer("reformat")]
    said = page({"layers": {"compile/rtx/fp16": rows}}, set())
    assert "`compile/rtx/fp16`, 41 layers: 39 CaskConvolution of Half, 1 CaskConvolution of Float, 1 Cask" in said
    assert "| conv0 | CaskConvolution | Float, Half | `sm86_conv0` |" in said
    assert "| conv29 |" in said
    assert "| conv30 |" not in said
    assert "… and 11 more in report.json." in said


def test_engines_that_do_not_tell_get_no_section() -> None:
    assert "## Layers" not in page({"layers": {}}, set())
