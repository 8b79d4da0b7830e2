"""`tlcompile finalize`: builds on a device what could not be built where the bundle was made, and proves it there.

A copy of the bundle gets the engine, built from the bundle's graph with the target's profile and timing cache; the
golden self-test and the latency gates are run on the device; the result is a new manifest. Only a copy that passed its
self-test takes the place of the bundle, in one step, so a device that is switched off halfway keeps the old one.

Needs what the bundle needs, no torch and no compiler: `python predict.py --finalize` does the same without tlcompile.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tlcompile
from tlcompile import compile
from tlcompile.artifacts import read_json
from tlcompile.errors import BundleError, ParityError, Problem, one_of
from tlcompile.fingerprint import file_digest
from tlcompile.package import manifest as manifests
from tlcompile.package.manifest import EngineEntry, Gate, Manifest
from tlcompile.package.verify import check_files, walk
from tlcompile.runtime import watched
from tlcompile.runtime.choose import asked, options_of

_GATES = {"max_latency_p50_ms": "p50_ms", "max_latency_p99_ms": "p99_ms"}


def finalize(
    bundle: Path, output: Path | None = None, target: str = "", memory_mib: int | None = None, runs: int = 200
) -> dict[str, Any]:
    """Build the engines of `bundle` that wait for their device (with `target`, those of that name) into `output`, or in
    place. `memory_mib` is what a build may take, `runs` how many calls are timed.

    Returns `bundle`, `engines` (name -> `seconds`, `memory_mib`, `self_test`, `latency`, `notes`) and `gates`.
    BundleError where nothing is to be done, ParityError where an engine fails its self-test.
    """
    manifest = manifests.read(bundle)
    check_files(bundle, manifest)
    waiting = _waiting(bundle, manifest, target)
    if output is not None and output.exists():
        raise BundleError(Problem(str(output), "is there already; name a new folder"))
    place = (output or bundle).absolute().with_name(f".{(output or bundle).absolute().name}.{os.getpid()}")
    try:
        shutil.copytree(bundle, place)
        made = {entry.name: _finalize_one(place, entry, memory_mib, runs) for entry in waiting}
        gates = _judge(place, waiting, made)
        _swap(place, (output or bundle).absolute())
    except OSError as error:
        raise BundleError(
            Problem(str(error.filename or bundle), f"can't be written: {error.strerror or error}")
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {"bundle": str(output or bundle), "engines": made, "gates": [gate.model_dump() for gate in gates]}


def _waiting(bundle: Path, manifest: Manifest, target: str) -> list[EngineEntry]:
    """The engines to build. BundleError where there are none."""
    if target:
        return asked(manifest, target)
    waiting = [entry for entry in manifest.engines if compile.is_later(options_of(entry))]
    if not waiting:
        names = one_of(entry.name for entry in manifest.engines)
        what = f"no engine of it waits for its device; --target builds one of {names} anew"
        raise BundleError(Problem(str(bundle), what))
    return waiting


def _finalize_one(place: Path, entry: EngineEntry, memory_mib: int | None, runs: int) -> dict[str, Any]:
    """Build and prove one engine in the copy `place`, whose manifest is rewritten. Returns what was measured."""
    folder, built = place / entry.folder, place.with_name(f"{place.name}.engine")
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    try:
        arguments = ["build", str(place), entry.name, str(built), json.dumps(_limits(entry, memory_mib))]
        done, peak = watched.run(f"building {entry.name}", arguments, memory_mib)
        shutil.rmtree(folder)
        shutil.move(built, folder)
    finally:
        shutil.rmtree(built, ignore_errors=True)
    found: dict[str, Any] = {"seconds": done["seconds"], "memory_mib": peak and round(peak, 1)}
    _rewrite(place, entry, found)
    proof, _ = watched.run(f"proving {entry.name}", ["prove", str(place), entry.name, str(runs)])
    if not proof["self_test"]["ok"]:
        raise ParityError(Problem(entry.name, f"built here it does not answer as it was proven to: {proof['said']}"))
    found |= {key: proof[key] for key in ("self_test", "latency", "notes")}
    _rewrite(place, entry, found)
    return found


def _limits(entry: EngineEntry, memory_mib: int | None) -> dict[str, int]:
    """The library's own limit of its workspace, where its backend has one: the GPU's memory may be the device's."""
    options = options_of(entry)
    if memory_mib is None or "workspace_mib" not in type(options).model_fields:
        return {}
    return {"workspace_mib": min(memory_mib, getattr(options, "workspace_mib", None) or memory_mib)}


def _rewrite(place: Path, entry: EngineEntry, found: dict[str, Any]) -> None:
    """A new manifest for the copy: the engine as it is now, and the digests of all files."""
    old = manifests.read(place)
    info = read_json(place / entry.folder / "engine.json")
    measured = {**entry.measured, "finalized": {"tlcompile": tlcompile.__version__, **found}}
    same = {key: info[key] for key in ("options", "versions", "device", "runs_here", "why_not")}
    same["reproducible"] = info.get("reproducible", True)
    engines = tuple(
        engine.model_copy(update={**same, "measured": measured}) if engine.name == entry.name else engine
        for engine in old.engines
    )
    variants = tuple(
        variant.model_copy(update=_times(found))
        if variant.shipped and (variant.target, variant.precision) == (entry.target, entry.variant)
        else variant
        for variant in old.variants
    )
    _write(place, old, engines=engines, variants=variants)


def _times(found: dict[str, Any]) -> dict[str, Any]:
    if "latency" not in found:
        return {}
    times = found["latency"]
    return {"executed": True, "latency_p50_ms": times["p50_ms"], "latency_p99_ms": times["p99_ms"]}


def _write(place: Path, old: Manifest, **changes: Any) -> None:
    files = {path: Path(entry.path) for path, entry in walk(place) if path != manifests.NAME}
    digests = {path: file_digest(file) for path, file in files.items()}
    sizes = {path: file.stat().st_size for path, file in files.items()}
    new = old.model_copy(update={**changes, "files": digests, "sizes": sizes})
    manifest = manifests.parse(new.to_text(), f"manifest of {old.name}")
    (place / manifests.NAME).write_text(manifest.to_text(), encoding="utf-8")


def _judge(place: Path, waiting: list[EngineEntry], made: dict[str, dict[str, Any]]) -> list[Gate]:
    """The latency gates of the targets that were built here, judged by what was measured here, into the manifest."""
    old = manifests.read(place)
    times = {entry.target: made[entry.name]["latency"] for entry in waiting}
    gates = tuple(_judged(gate, times[gate.target]) if _is_ours(gate, times) else gate for gate in old.gates)
    _write(place, old, gates=gates)
    return [gate for gate in gates if _is_ours(gate, times)]


def _is_ours(gate: Gate, times: dict[str, Any]) -> bool:
    return gate.name in _GATES and gate.target in times


def _judged(gate: Gate, times: dict[str, Any]) -> Gate:
    value = times[_GATES[gate.name]]
    why = f"{value:.4g} ms, measured on the device over {times['n']} calls"
    return gate.model_copy(
        update={"value": value, "verdict": "passed" if value <= gate.limit else "failed", "why": why}
    )


def _swap(place: Path, final: Path) -> None:
    """`place` becomes `final`; what was there goes."""
    old = final.with_name(f"{place.name}.old")
    if final.exists():
        os.rename(final, old)
    try:
        os.rename(place, final)
    except OSError:
        if old.exists():
            os.rename(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def failed(result: dict[str, Any]) -> list[Problem]:
    """The gates that the device did not meet."""
    return [
        Problem(gate["target"], f"{gate['name']} {gate['limit']:g}: {gate['why']}")
        for gate in result["gates"]
        if gate["verdict"] == "failed"
    ]


def in_words(result: dict[str, Any]) -> list[str]:
    """One line for each engine and gate."""
    lines = []
    for name, found in result["engines"].items():
        memory = f", {found['memory_mib']:.0f} MiB" if found["memory_mib"] else ""
        test, times = found["self_test"], found["latency"]
        lines.append(
            f"{name}: built in {found['seconds']:.1f} s{memory}; self-test passed on {test['n']} golden examples; "
            f"p50 {times['p50_ms']:.3g} ms, p99 {times['p99_ms']:.3g} ms over {times['n']} calls"
        )
        lines += [f"  {note}" for note in found["notes"]]
    lines += [f"  {g['target']}: {g['name']} {g['limit']:g} {g['verdict']}: {g['why']}" for g in result["gates"]]
    return [*lines, f"bundle: {result['bundle']}"]
