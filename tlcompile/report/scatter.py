"""Variants as accuracy against latency, with the interval of the accuracy: what a faster engine costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlcompile.report.style import COLOURS, FAINT, INK, figure
from tlcompile.report.tables import metric

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "*", ">", "h", "d", "8")
_LINE = 0.275  # inches of an entry of the legend


def draw_variants(facts: dict[str, Any], path: Path) -> bool:
    """Median latency at batch 1 against accuracy; False where no variant has both."""
    shown = [v for v in facts.get("variants") or [] if v.get("accuracy") is not None and _p50(v) is not None]
    if not shown:
        return False
    explored = any("frontier" in v for v in shown)
    if explored:
        shown.sort(key=lambda v: _p50(v) or 0.0)  # so that the legend is in the order of the points
    backends = list(dict.fromkeys(_colour(v, explored) for v in shown))
    precisions = list(dict.fromkeys(_mark(v, explored) for v in shown))
    named = [v for v in shown if not explored or v["frontier"] or v.get("chosen")]
    with figure(path, 7.6, max(4.0, 0.5 + _LINE * len(named))) as drawn:
        axes = drawn.subplots()
        for variant in shown:
            colour = COLOURS[backends.index(_colour(variant, explored)) % len(COLOURS)]
            mark = _MARKS[precisions.index(_mark(variant, explored)) % len(_MARKS)]
            if variant in named:
                _point(axes, variant, colour, mark, f"{_p50(variant):.3g} ms: " if explored else "")
            else:
                x, y = _p50(variant) or 0.0, variant["accuracy"]
                axes.plot(x, y, marker=mark, ms=6, color=colour, ls="", alpha=0.4)
        _frontier(axes, shown)
        _frame(axes, shown)
        _limits(axes, facts.get("gates") or [])
        axes.set(xlabel="median latency at batch 1, ms", ylabel=f"{metric(facts)} on test examples")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=0.9)
    return True


def _p50(variant: dict[str, Any]) -> float | None:
    found: float | None = ((variant.get("latency") or {}).get("batch_1") or {}).get("p50_ms")
    return found


def _span(variant: dict[str, Any]) -> tuple[float, float]:
    """Lowest and highest accuracy of the interval; the accuracy itself where there is none."""
    low, high = variant.get("accuracy_interval") or (None, None)
    accuracy = variant["accuracy"]
    return (accuracy if low is None else low), (accuracy if high is None else high)


def _mark(variant: dict[str, Any], explored: bool) -> str:
    """What has a mark of its own: a variant; of many, each precision."""
    return str(variant.get("precision" if explored else "variant", ""))


def _colour(variant: dict[str, Any], explored: bool) -> str:
    """What has a colour of its own: a backend; exploring, a backend with so many threads."""
    return str(variant.get("target" if explored else "backend", ""))


def _point(axes: Any, variant: dict[str, Any], colour: str, mark: str, before: str = "") -> None:
    """Colour says the backend, the mark says the precision, a ring the engine that ships. `before` its name."""
    x, y, (low, high) = _p50(variant), variant["accuracy"], _span(variant)
    axes.vlines(x, low, high, color=colour, lw=1.4, alpha=0.6)
    if variant.get("chosen"):
        axes.plot(x, y, marker="o", ms=17, mfc="none", mec=INK, mew=1.3)
    label = f"{before}{variant.get('engine', '')}{' (ships)' if variant.get('chosen') else ''}"
    axes.plot(x, y, marker=mark, ms=8, mec="white", mew=0.6, color=colour, ls="", label=label)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (latency, accuracy) that no other is both faster and at least as accurate than, by latency."""
    best: list[tuple[float, float]] = []
    for point in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def _frontier(axes: Any, shown: list[dict[str, Any]]) -> None:
    best = frontier([(_p50(v) or 0.0, v["accuracy"]) for v in shown])
    if len(best) > 1:
        axes.step(*zip(*best, strict=True), where="post", color=FAINT, lw=1, zorder=0)


def _frame(axes: Any, shown: list[dict[str, Any]]) -> None:
    """Latency from 0 on; accuracy with room around its intervals."""
    low, high = min(_span(v)[0] for v in shown), max(_span(v)[1] for v in shown)
    room = max(high - low, 0.01) * 0.12
    axes.set_xlim(0, max(_p50(v) or 0 for v in shown) * 1.12)
    axes.set_ylim(low - room, high + room)


def _limits(axes: Any, gates: list[dict[str, Any]]) -> None:
    """The gates on these two numbers, unless they are so far off that the points would shrink to one."""
    limits = {gate.get("gate"): gate.get("limit") for gate in gates}
    text = {"fontsize": 8, "color": FAINT, "va": "bottom"}
    bottom, top = axes.get_ylim()
    least, most = limits.get("min_accuracy"), limits.get("max_latency_p50_ms")
    if least is not None and bottom - (top - bottom) < least < top + (top - bottom):
        room = (top - bottom) * 0.08
        axes.set_ylim(min(bottom, least - room), max(top, least + room))
        axes.axhline(least, color=FAINT, ls="--", lw=1)
        axes.text(0.99, least, f"gate: at least {least:g}", transform=axes.get_yaxis_transform(), ha="right", **text)
    if most is not None and most < 2 * axes.get_xlim()[1]:
        axes.set_xlim(0, max(axes.get_xlim()[1], most * 1.08))
        axes.axvline(most, color=FAINT, ls="--", lw=1)
        at_top = {**text, "va": "top", "ha": "right", "rotation": 90}
        axes.text(most, 0.99, f"gate: at most {most:g} ms ", transform=axes.get_xaxis_transform(), **at_top)
