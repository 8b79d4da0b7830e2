"""Which ONNX opset the graph is exported in: what the recipe says, else the default or what is nearest to it and taken.

A backend whose library does not read every opset that a recipe may name says which it reads: `OPSETS = (9, 20)`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlcompile.errors import one_of
from tlcompile.recipe.tables import ExportTable, Target

KEY = "opset"


def settled(table: ExportTable, targets: Sequence[Target]) -> ExportTable:
    """`table` with the opset that every target takes and that is nearest to the default, where it names none."""
    low, high = taken(targets)
    if KEY in table.model_fields_set or low > high:
        return table
    return table.model_copy(update={KEY: min(max(table.opset, low), high)})


def problem(table: ExportTable, targets: Sequence[Target]) -> str:
    """What is wrong with the opset of `table`; ''."""
    low, high = taken(targets)
    if low <= table.opset <= high:
        return ""
    allowed = f"{low} to {high} suit all targets" if low <= high else "none suits all targets"
    return f"{table.opset} is not read by {_narrower(targets, table.opset)}; {allowed}"


def told(table: ExportTable, targets: Sequence[Target]) -> str:
    """Which opset the graph is in, where it is not the default, and why."""
    default = ExportTable.model_fields[KEY].default
    if table.opset == default:
        return ""
    reason = _narrower(targets, default)
    why = f"{default} is not read by {reason}" if reason else f"as the recipe says; {default} is the default"
    return f"the graph is in ONNX opset {table.opset}: {why}"


def taken(targets: Sequence[Target]) -> tuple[int, int]:
    """(lowest, highest) opset that a recipe may name and every target takes; lowest > highest where there is none."""
    limits = [_known(), *(found for t in targets if (found := _read_by(t)))]
    return max(low for low, _ in limits), min(high for _, high in limits)


def _read_by(target: Target) -> tuple[int, int] | None:
    found: tuple[int, int] | None = getattr(target.backend.module, "OPSETS", None)
    return found


def _narrower(targets: Sequence[Target], opset: int) -> str:
    """The backends that don't take `opset`, with what they take."""
    limits = {t.backend.name: found for t in targets if (found := _read_by(t))}
    return one_of(f"{name} ({low} to {high})" for name, (low, high) in limits.items() if not low <= opset <= high)


def _known() -> tuple[int, int]:
    """The limits of the key itself."""
    limits = {type(m).__name__: m for m in ExportTable.model_fields[KEY].metadata}
    return limits["Ge"].ge, limits["Le"].le
