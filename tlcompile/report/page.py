"""`report.md`: first the verdict, the gates and the variants; then the evidence in the order of the build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from tlcompile.report.compression import compression, explored
from tlcompile.report.early_exit import early_exit
from tlcompile.report.layers import layers
from tlcompile.report.markdown import code, flat, number, table, words
from tlcompile.report.tables import gates, history, metric, parity, per_class, stages, variants, worst_pairs

Facts = dict[str, Any]
_LISTED = 30  # rows of a list that are shown before it says how many more there are


def page(facts: Facts, pictures: set[str]) -> str:
    """The page. `pictures` are the names that were drawn into `pictures/`."""
    sections: tuple[Callable[[Facts, set[str]], Iterator[str]], ...] = (
        _verdict,
        _gates,
        _variants,
        early_exit,
        _compression,
        layers,
        _parity,
        _training,
        _confusion,
        _data,
        _applied,
        _stages,
        _environment,
        _recipe,
    )
    parts = ["\n".join(lines) for section in sections if (lines := list(section(facts, pictures)))]
    return "\n\n".join(parts) + "\n"


def _verdict(facts: Facts, _: set[str]) -> Iterator[str]:
    asked = facts.get("gates") or []
    failed = [gate for gate in asked if not gate.get("passed")]
    yield f"# {facts.get('name', 'Report')}"
    yield ""
    if failed:
        yield f"**FAILED: {len(failed)} of {_count(asked, 'gate')} did not pass. It is not good enough to ship.**"
        yield ""
        for gate in failed:
            target = f"{gate['target']}: " if gate.get("target") else ""
            yield f"- {target}{code(gate.get('gate'))} = {number(gate.get('limit'))}: {gate.get('why') or _short(gate)}"
    elif asked:
        deferred = [gate for gate in asked if gate.get("deferred")]
        left = f" {_count(deferred, 'gate')} can be shown on the engine's device only." if deferred else ""
        yield f"**Passed: {len(asked) - len(deferred)} of {_count(asked, 'gate')}.{left}**"
    else:
        yield "**No gates were asked for: nothing was judged.**"
    for chosen in (v for v in facts.get("variants") or [] if v.get("chosen")):
        yield ""
        why = str(chosen.get("why") or "").removeprefix("ships: ")
        why = f" Chosen because: {why.rstrip('.')}." if why else ""
        measured = _measures(chosen, metric(facts))
        yield f"{'Would ship' if failed else 'Ships'} {code(chosen.get('engine'))}: {measured}.{why}"
    notes = facts.get("notes") or []
    if notes:
        yield ""
        yield from (f"- {note}" for note in notes)


def _gates(facts: Facts, _: set[str]) -> Iterator[str]:
    if facts.get("gates"):
        yield from ("## Gates", "", *gates(facts["gates"]))


def _conditions(measured: list[Facts]) -> Iterator[str]:
    """On what and with which input latency was measured; a line for each different answer."""
    lines = []
    for v in (v for v in measured if v.get("threads")):
        feeds = [b["feed"] for b in v["latency"].values() if isinstance(b, dict) and b.get("feed")]
        device = ", ".join(f"{name} {value}" for name, value in (v.get("device") or {}).items())
        lines.append(f"{v.get('backend')}: {v['threads']} threads on {device}; input {' and '.join(feeds)}.")
    yield from ("", *dict.fromkeys(lines)) if lines else ()


def _variants(facts: Facts, pictures: set[str]) -> Iterator[str]:
    measured = facts.get("variants") or []
    if not measured:
        return
    name, tried = metric(facts), facts.get("explored") or {}
    left_out = [{"engine": o["line"], "why": f"{o['verdict']}: {o['why']}"} for o in tried.get("left_out", ())]
    yield from ("## Variants", "", *variants([*measured, *left_out], name, judged=bool(tried)))
    title = name[0].upper() + name[1:]
    yield from ("", f"{title} with its interval; latency in milliseconds a call at the batch size named.")
    if more := {k: v for k, v in (facts.get("metrics") or {}).items() if isinstance(v, float)}:
        said = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in more.items())
        yield from ("", f"The engine that ships, on the same examples: {said}.")
    yield from _conditions(measured)
    if tried:
        yield from ("", explored(tried))
    others = [] if tried else [v for v in measured if v.get("why") and not v.get("chosen")]  # else in the table
    reasons = [f"- {code(v.get('engine'))}: {v['why']}" for v in others]
    stand_ins = [
        f"- {code(v.get('engine'))}: in {words(v['measured_in'])}"
        for v in measured
        if v.get("measured_in") and v["measured_in"] != v.get("backend")
    ]
    if reasons:
        yield from ("", "Why the others were not chosen:", "", *reasons)
    if stand_ins:
        yield from ("", f"{title} that was measured elsewhere, with the same graph:", "", *stand_ins)
    yield from _picture("variants", f"{name} of the variants against their latency", pictures)
    yield from _picture("predictions", "predicted against true numbers", pictures)


def _compression(facts: Facts, _: set[str]) -> Iterator[str]:
    if facts.get("compression"):
        yield from ("## Compression", *compression(facts["compression"]))


def _parity(facts: Facts, _: set[str]) -> Iterator[str]:
    rows = facts.get("parity")
    if not rows:
        return
    bad = next((row["rung"] for row in rows if not row.get("ok")), None)
    yield from (
        "## Parity",
        "",
        "After each step the golden examples ran again and were compared with the step before: the logits by their "
        "root mean square difference, as a share of their spread. "
        + (f"**The first bad step is {bad}.**" if bad else "All are sound."),
        "",
        *parity(rows),
    )


def _training(facts: Facts, pictures: set[str]) -> Iterator[str]:
    epochs = facts.get("history") or []
    if not epochs:
        return
    yield "## Training"
    yield from _picture("curves", f"loss and {metric(facts)} per epoch", pictures)
    step = -(-len(epochs) // _LISTED)
    shown = [row for i, row in enumerate(epochs) if (len(epochs) - 1 - i) % step == 0]
    yield from ("", *history(shown, metric(facts)))
    if step > 1:
        yield from ("", f"One row in {step} of {len(epochs)} epochs; report.json has all.")
    if "views" in pictures or facts.get("views"):
        yield from ("", "What the network received in its first batch, augmented and mixed:")
    yield from _picture("views", "the first training batch", pictures)
    if facts.get("views"):
        yield from ("", "```", *facts["views"], "```")


def _confusion(facts: Facts, pictures: set[str]) -> Iterator[str]:
    matrix, classes = facts.get("confusion"), facts.get("classes")
    if not matrix and not facts.get("per_class"):
        return
    yield "## Classes"
    yield from _picture("confusion", "confusion matrix", pictures)
    if matrix and classes:
        pairs = worst_pairs(matrix, classes, 10)
        yield ""
        yield from pairs or ["No test example was taken for another class."]
    if facts.get("per_class"):
        yield from ("", *_first(per_class(facts["per_class"]), _LISTED * 4))


def _data(facts: Facts, _: set[str]) -> Iterator[str]:
    data = facts.get("data") or {}
    if not data:
        return
    yield from ("## Data", "")
    splits: dict[str, dict[str, int]] = data.get("counts") or {}
    names = [
        str(name)
        for name in facts.get("classes") or data.get("classes") or dict.fromkeys(n for s in splits.values() for n in s)
    ]
    sizes = data.get("sizes") or {split: sum(found.values()) for split, found in splits.items()}
    rows = [["**all**", *(str(sizes.get(split, "")) for split in splits)]]
    rows += [[code(name), *(str(split.get(name, 0)) for split in splits.values())] for name in names]
    by = data.get("split_by") or {}
    heads = ["class", *(f"{split} ({by[split]})" if split in by else split for split in splits)]
    if splits:
        yield from _first(table(heads, rows), _LISTED + 2)
    if data.get("target"):
        target = data["target"]
        said = f"mean {target['mean']:.6g} and standard deviation {target['std']:.6g} over train"
        yield from ("", f"The target is {code(target['name'])}: {said}.")
    if data.get("calibration"):
        yield from ("", f"Quantization is calibrated on {len(data['calibration'])} training examples.")
    if data.get("notes"):
        yield from ("", *(f"- {note}" for note in data["notes"]))
    skipped = [f"- {code(s.get('id'))}: {s.get('why')}" for s in data.get("skipped") or []]
    if skipped:
        yield from ("", f"Skipped, {len(skipped)}:", "", *_first(skipped, _LISTED))


def _applied(facts: Facts, _: set[str]) -> Iterator[str]:
    if facts.get("applied"):
        yield from ("## Hyper-parameters as applied", "", "Read back from what ran, not from the recipe.", "")
        found = flat({key: value for key, value in facts["applied"].items() if key != "notes"})
        yield from table(("name", "value"), [(code(key), value) for key, value in found])


def _stages(facts: Facts, _: set[str]) -> Iterator[str]:
    if facts.get("stages"):
        yield from ("## Stages", "", *stages(facts["stages"]))


def _environment(facts: Facts, _: set[str]) -> Iterator[str]:
    if facts.get("environment"):
        yield from ("## Environment", "")
        yield from table(("what", "value"), [(code(key), value) for key, value in flat(facts["environment"])])


def _recipe(facts: Facts, _: set[str]) -> Iterator[str]:
    if facts.get("recipe"):
        yield from ("## Recipe, with every default", "")
        yield from table(("key", "value"), [(code(key), value) for key, value in flat(facts["recipe"])])


def _picture(name: str, says: str, pictures: set[str]) -> Iterator[str]:
    if name in pictures:
        yield from ("", f"![{says}](pictures/{name}.png)")


def _first(lines: list[str], count: int) -> Iterator[str]:
    yield from islice(lines, count)
    if len(lines) > count:
        yield from ("", f"… and {len(lines) - count} more in report.json.")


def _count(items: list[Any], what: str) -> str:
    return f"{len(items)} {what}{'s' if len(items) != 1 else ''}"


def _short(gate: Facts) -> str:
    return f"found {number(gate.get('value')) or 'no value'}"


def _measures(variant: Facts, metric: str) -> str:
    low, high = variant.get("accuracy_interval") or (None, None)
    interval = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
    latency = (variant.get("latency") or {}).get("batch_1", {}).get("p50_ms")
    said = (
        (f"{metric} ", number(variant.get("accuracy"), ".4f"), interval),
        ("median latency ", number(latency, ".2f"), " ms at batch 1"),
        ("", number(variant.get("size_mb"), ".2f"), " MB"),
    )
    return ", ".join(f"{before}{value}{after}" for before, value, after in said if value) or "not measured"
