"""Engines that may answer with the first view or member alone: accuracy against mean latency for each threshold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlcompile.report.markdown import number, table
from tlcompile.report.style import COLOURS, FAINT, INK, figure
from tlcompile.report.tables import metric


def early_exit(facts: dict[str, Any], pictures: set[str]) -> Iterator[str]:
    """What each of them took over real examples, and a table of its curve."""
    if not facts.get("early_exit"):
        return
    yield from ("## Early exit", "")
    yield (
        "The first view or member answers alone where it is sure enough, so the time depends on the example. Accuracy "
        "and share are of validation examples, on which the threshold was chosen; each mean latency is that of the "
        "engines of the first alone and of all, on the same test examples, by the share that leaves. Of an example's "
        "calls the median counts in a mean; p99 is of all calls."
    )
    for found in facts["early_exit"]:
        yield from ("", f"### {found['engine']}", "", f"{_measured(found, metric(facts))}.", "")
        heads = ("threshold", "leaves early", f"{metric(facts)} (val)", "mean ms, computed", "")
        yield from table(heads, [_row(point, found["threshold"]) for point in found["curve"]])
    if "early_exit" in pictures:
        yield from ("", f"![{metric(facts)} against mean latency](pictures/early_exit.png)")


def _measured(found: dict[str, Any], metric: str) -> str:
    parts = [
        f"Threshold {_threshold(found['threshold'])}",
        f"{metric} {number(found.get('accuracy'), '.4f')} on test examples",
    ]
    if found.get("mean_ms") is not None:
        over = f"over {found['examples']} test examples, one at a time" if found.get("examples") else "at batch 1"
        parts.append(f"mean {found['mean_ms']:.2f} ms and p99 {found['p99_ms']:.2f} ms {over}")
    if found.get("all_ms") is not None:
        parts.append(f"all of them always: mean {found['all_ms']:.2f} ms")
    if found.get("first_ms") is not None:
        parts.append(f"the first alone: mean {found['first_ms']:.2f} ms")
    return "; ".join(parts)


def _row(point: dict[str, Any], chosen: float | None) -> tuple[str, ...]:
    return (
        _threshold(point["threshold"]),
        f"{point['left']:.0%}",
        number(point["score"], ".4f"),
        number(point.get("mean_ms"), ".2f"),
        "chosen" if point["threshold"] == chosen else "",
    )


def _threshold(value: float | None) -> str:
    return "none: all always" if value is None else f"{value:.4g}"


def draw_early_exit(facts: dict[str, Any], path: Path) -> bool:
    """A line an engine; a ring where it leaves; False where no curve has times."""
    drawable = [f for f in facts.get("early_exit") or [] if all(p.get("mean_ms") is not None for p in f["curve"])]
    if not drawable:
        return False
    with figure(path, 7.6, 3.8) as drawn:
        axes = drawn.subplots()
        for index, found in enumerate(drawable):
            colour = COLOURS[index % len(COLOURS)]
            points = [(point["mean_ms"], point["score"]) for point in found["curve"]]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", ms=3, lw=1.2, label=found["engine"])
            chosen = next(p for p in found["curve"] if p["threshold"] == found["threshold"])
            axes.plot(chosen["mean_ms"], chosen["score"], marker="o", ms=13, mfc="none", mec=INK, mew=1.2)
            if found.get("mean_ms") is not None:
                axes.axvline(found["mean_ms"], color=colour, lw=1, ls=":")
        axes.axhline(drawable[0]["curve"][0]["score"], color=FAINT, lw=0.8, ls="--", zorder=0)
        axes.set_xlim(left=0)
        axes.set(
            xlabel="mean latency at batch 1, ms (dotted: measured)", ylabel=f"{metric(facts)} on validation examples"
        )
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return True
