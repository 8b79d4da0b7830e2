"""The bundle's README.md: a model card that says what it is, how good it was found, how to run it and where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

_SHOWN = 12  # classes that are named before it says how many more there are


def card(manifest: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown out of the manifest (as JSON values, its `files` not needed) and the report's facts."""
    parts = [_head(manifest), _use(manifest), _numbers(manifest, facts), _limits(manifest), _origin(manifest, facts)]
    return "\n".join(line for part in parts for line in [*part, ""]).rstrip() + "\n"


def _head(manifest: dict[str, Any]) -> Iterator[str]:
    classes, signature = manifest["classes"], manifest["signature"]
    more = f" and {len(classes) - _SHOWN} more (labels.json)" if len(classes) > _SHOWN else ""
    yield f"# {manifest['name']}"
    yield ""
    if _labels(manifest) == "number":
        yield f"Says a number for each {manifest['kind']}: {_codes([signature['target']['name']])}."
    else:
        into = f"{len(classes)} classes: {_codes(classes[:_SHOWN])}{more}."
        plural = f"{manifest['kind']}s"
        yield f"Sorts {plural} into {into}" if _labels(manifest) == "class" else f"Finds in {plural} any of {into}"
    yield f"Task: {manifest['task']}. Built and measured by tlcompile {manifest['tlcompile']}."


def _use(manifest: dict[str, Any]) -> Iterator[str]:
    image = manifest["kind"] == "image"
    yield from ("## Use", "", "```sh", "pip install -r requirements.txt")
    yield "python predict.py --self-test     # does this machine compute what was proven?"
    yield "python predict.py photo.jpg" if image else 'python predict.py "a text"'
    yield from ("```", "", "From Python, in this folder:", "", "```python", "import sys")
    yield from ("from pathlib import Path", "", 'sys.path.insert(0, "runtime"); sys.dont_write_bytecode = True')
    yield "from tlcompile.runtime import load"
    item = 'Path("photo.jpg")' if image else '"a text"'
    yield from ("", 'model = load(Path("."))', f"print(model.predict([{item}])[0])", "```", "")
    yield f"Input: {'; '.join(_tensor(t) for t in manifest['signature']['inputs'])}."
    if image:
        yield "Resizing and normalising are inside the model: give it the image as it is, RGB."
    else:
        yield "`tokenizer.json` turns text into these ids."
    yield f"Output: {'; '.join(_tensor(t) for t in manifest['signature']['outputs'])}."


def _numbers(manifest: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    yield from ("## Measured", "")
    for variant in manifest["variants"]:
        place = "not in this bundle" if not variant["shipped"] else f"engines/{variant['target']}"
        first = " **Preferred.**" if variant["shipped"] and variant["target"] == manifest["chosen"] else ""
        yield f"- {_measures(variant, facts.get('metric') or 'accuracy')} ({place}).{first}"
    environment = facts.get("environment", {})
    if machine := ", ".join(str(environment[k]) for k in ("cpu", "gpu", "platform") if environment.get(k)):
        yield from ("", f"Latency was taken on the build machine: {machine}. {_title(facts)} is on test examples.")
    if manifest["gates"]:
        yield from ("", "Gates:", "")
        yield from (f"- {_gate(gate)}" for gate in manifest["gates"])
    yield from ("", "report.md has the whole evidence.")


def _limits(manifest: dict[str, Any]) -> Iterator[str]:
    yield from ("## Limits", "")
    classes = len(manifest["classes"])
    yield {
        "class": f"- Every input gets one of the {classes} classes, also what belongs to none of them.",
        "classes": f"- It knows these {classes} classes only; one is given where its probability is above 1/2.",
        "number": "- Every input gets a number, also one that is unlike all it was taught on.",
    }[_labels(manifest)]
    yield "- The figures hold for inputs like the test examples; measure on your own before you rely on them."
    if _labels(manifest) != "number":
        activation = "softmax" if _labels(manifest) == "class" else "sigmoid"
        yield f"- Probabilities are the {activation} of the network; they were not calibrated."
    for engine in (e for e in manifest["engines"] if not e["runs_here"]):
        why = f" ({engine['why_not']})" if engine.get("why_not") else ""
        yield f"- `{engine['name']}` was not run where it was built{why}: run the self-test on its device."


def _origin(manifest: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    yield from ("## Origin", "")
    resolved, counts = manifest["resolved"], facts.get("data", {}).get("counts", {})
    model, data = resolved.get("model", {}), resolved.get("data", {})
    if model:
        yield f"- Model: {' '.join(str(model[k]) for k in ('library', 'name') if model.get(k))}"
    if data:
        known = facts.get("data", {}).get("sizes") or {split: sum(found.values()) for split, found in counts.items()}
        sizes = ", ".join(f"{size} {split}" for split, size in known.items())
        origin = f"{data.get('source', '')} {data.get('path') or ''}".strip()
        yield f"- Data: {origin}" + (f" ({sizes} examples)" if sizes else "")
    for key, value in manifest["provenance"].items():
        yield f"- {key.replace('_', ' ')}: {f'`{value}`' if isinstance(value, str) else value}"
    yield "- The recipe, every default and the versions used stand in manifest.json."


def _measures(variant: dict[str, Any], metric: str) -> str:
    said = [f"{variant['backend']} {variant['precision']}".strip()]
    if variant["accuracy"] is not None:
        interval = ""
        if variant["accuracy_low"] is not None:
            interval = f" ({variant['accuracy_low']:.4f} to {variant['accuracy_high']:.4f})"
        examples = f" on {variant['n']} examples" if variant["n"] else ""
        said.append(f"{metric} {variant['accuracy']:.4f}{interval}{examples}")
    if variant["latency_p50_ms"] is not None:
        said.append(f"latency p50 {variant['latency_p50_ms']:.2f} ms")
    if variant["latency_p99_ms"] is not None:
        said.append(f"p99 {variant['latency_p99_ms']:.2f} ms")
    if variant["size_mb"] is not None:
        said.append(f"{variant['size_mb']:.1f} MB")
    return ", ".join(said) + ("" if variant["executed"] else ", not run on the build machine")


def _gate(gate: dict[str, Any]) -> str:
    found = "not measured" if gate["value"] is None else f"{gate['value']:.4g}"
    why = f". {gate['why']}" if gate["why"] else ""
    target = f"{gate['target']}: " if gate["target"] else ""
    return f"{target}`{gate['name']} = {gate['limit']:g}`: {found}, {gate['verdict']}{why}"


def _labels(manifest: dict[str, Any]) -> str:
    return str(manifest["signature"].get("labels", "class"))


def _title(facts: dict[str, Any]) -> str:
    metric = facts.get("metric") or "accuracy"
    return f"{metric[0].upper()}{metric[1:]}"


def _tensor(tensor: dict[str, Any]) -> str:
    shape = ", ".join(str(size) for size in tensor["shape"])
    meaning = f" ({tensor['meaning']})" if tensor.get("meaning") else ""
    return f"`{tensor['name']}` {tensor['dtype']} [{shape}]{meaning}"


def _codes(names: Iterable[str]) -> str:
    return ", ".join("`" + name.replace("`", "'") + "`" for name in names)
