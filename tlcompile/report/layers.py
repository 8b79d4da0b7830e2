"""What a library made of the graph: layers, often of several nodes, with the kernel and the types that it chose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tlcompile.report.markdown import code, table

_SHOWN, _NAME = 30, 80  # layers of an engine, characters of a layer's name


def layers(facts: dict[str, Any], _: set[str]) -> Iterator[str]:
    found: dict[str, list[dict[str, Any]]] = facts.get("layers") or {}
    if not found:
        return
    yield from ("## Layers", "", "As the library reports them; an input's type says in which precision it computes.")
    for engine, rows in found.items():
        kinds = Counter(f"{row['kind']} of {row['inputs'][0]}" if row["inputs"] else row["kind"] for row in rows)
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        yield from ("", f"{code(engine)}, {len(rows)} layers: {said}.", "")
        cells = [(row["name"][:_NAME], row["kind"], ", ".join(row["inputs"]), code(row["tactic"])) for row in rows]
        yield from table(("layer", "kind", "inputs", "kernel"), cells[:_SHOWN])
        if len(rows) > _SHOWN:
            yield from ("", f"… and {len(rows) - _SHOWN} more in report.json.")
