"""What passes of `[compress]` and searches of `[optimize]` found: how far networks were cut, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tlcompile.report.markdown import code, number, table

_SHOWN = 30  # rows of a list


def compression(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """`found`: step -> the content of its prune.json, sparse.json or search.json."""
    writers = {"speedup_asked": _pruned, "density": _sparse, "layers": _searched}
    for step, facts in found.items():
        for key, writer in writers.items():
            if key in facts:
                yield from ("", f"{code(step)}:", "", *writer(facts))


def explored(found: dict[str, Any]) -> str:
    """What `[optimize] explore` tried, and how one of it was chosen."""
    asked = [f"{speedup:g}" for speedup in found.get("speedups", ())]
    tried = f"networks pruned to be {', '.join(asked)} times faster, " if asked else ""
    return (
        f"Explored: {tried}each precision, backend and number of threads, within {found.get('budget_minutes', 0):g} "
        "minutes. On the frontier is what no other engine is both faster and at least as accurate than. Of all that "
        "run here the fastest that passes every gate ships; several claims share the risk of a false pass (Holm)."
    )


def _pruned(facts: dict[str, Any]) -> Iterator[str]:
    first, last = facts["steps"][0]["products"][0], facts["steps"][-1]["products"][-1]
    before, after = facts["parameters"]
    yield (
        f"{facts['ms_before']:.2f} → {facts['ms_after']:.2f} ms on {facts['engine']}: {facts['speedup_reached']:.2f} "
        f"times faster, {facts['speedup_asked']:g} asked for. {first / 1e6:.0f} → {last / 1e6:.0f} million "
        f"multiply-adds, {before / 1e6:.2f} → {after / 1e6:.2f} million parameters. "
        "Cuts that were timed before any training:"
    )
    rows = [(number(row["share_asked"], ".1%"), number(row["ms"], ".2f")) for s in facts["steps"] for row in s["curve"]]
    yield from ("", *table(("share of the cost to go", "ms"), rows))


def _sparse(facts: dict[str, Any]) -> Iterator[str]:
    size = facts["compressed_bytes"]
    yield (
        f"{len(facts['density'])} layers with zeros, {len(facts['dense'])} dense; weights compressed: "
        f"{size['before'] / 1e6:.2f} → {size['after'] / 1e6:.2f} MB."
    )


def _searched(facts: dict[str, Any]) -> Iterator[str]:
    kept = facts["chosen"]["in_fp32"]
    shown = ", ".join([*(code(name) for name in kept[:8]), *(["…"] if len(kept) > 8 else [])])
    left = f"{len(kept)} nodes stay in fp32 ({shown})" if kept else "Every layer is quantized"
    yield (
        f"{left}: drop "
        f"{facts['chosen']['drop']:+.4f}, at most {facts['chosen']['upper']:.4f}, {facts['margin']:g} allowed, on "
        f"{facts['examples']} validation examples. The most sensitive layers, and how far each alone moves the answers:"
    )
    rows = [(", ".join(row["nodes"])[:80], number(row["divergence"], ".3g")) for row in facts["layers"][:_SHOWN]]
    yield from ("", *table(("layer", "divergence"), rows))
    curve = [(str(row["in_fp32"]), number(row["drop"], "+.4f"), number(row["upper"], ".4f")) for row in facts["curve"]]
    yield from ("", *table(("layers in fp32", "drop", "at most"), curve))
