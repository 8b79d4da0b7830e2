"""Which engine of a bundle runs on this machine: the one asked for, else the first of the manifest that does.

Nothing is chosen in silence: each engine that was passed over leaves a sentence. An engine that was asked for by name
is never replaced by another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlcompile import compile, registry
from tlcompile.artifacts import Runner, Signature, read_json
from tlcompile.errors import BackendMissing, BundleError, Problem, TlcompileError, nearest, one_of
from tlcompile.options import Options
from tlcompile.package.manifest import EngineEntry, Manifest
from tlcompile.parity import Tolerance
from tlcompile.runtime.portable import Portable

PORTABLE = "model.onnx"
_PORTABLE_TOLERANCE = Tolerance(max_abs=5e-3, agreement=1.0)  # the golden outputs are this graph's, from another CPU


@dataclass(frozen=True)
class Opened:
    """An engine ready to run, and sentences about those that were passed over before it."""

    name: str
    runner: Runner
    signature: Signature
    tolerance: Tolerance
    notes: tuple[str, ...]


def choose(bundle: Path, manifest: Manifest, target: str) -> Opened:
    """Open the engine of the name, target or backend `target`, or with '' the first that runs here.

    BundleError where nothing is called `target`, BackendMissing where nothing of it runs here.
    """
    if target == PORTABLE:
        return _portable(bundle, manifest, ())
    refused: list[Problem] = []
    for entry in _asked(manifest, target):
        try:
            options = _options(entry)
            if reason := compile.runs_here(entry.backend, options):
                raise BackendMissing(reason)
            runner = compile.open_engine(bundle / entry.folder)
        except TlcompileError as error:
            refused.append(Problem(entry.name, f"does not run here: {'; '.join(str(p) for p in error.problems)}"))
            continue
        signature = Signature.from_json(read_json(bundle / entry.folder / "signature.json"))
        notes = (*(str(p) for p in refused), *_elsewhere(entry, compile.device(entry.backend, options)))
        return Opened(entry.name, runner, signature, entry.tolerance, notes)
    if target:
        raise BackendMissing(*refused)
    return _portable(bundle, manifest, tuple(refused))


def _asked(manifest: Manifest, target: str) -> list[EngineEntry]:
    found = [engine for engine in manifest.engines if target in ("", engine.name, engine.target, engine.backend)]
    if not found:
        known = [*(engine.name for engine in manifest.engines), PORTABLE]
        what = f"no engine is called '{target}': expected {one_of(known)}"
        raise BundleError(Problem(manifest.name, what, nearest(target, known)))
    return found


def _options(entry: EngineEntry) -> Options:
    """The options of its backend that the engine was built with."""
    try:
        made: Options = registry.load("compile", entry.backend).Options.model_validate(entry.options)
    except ValueError as error:
        raise BundleError(Problem("options", str(error))) from error
    return made


def _elsewhere(entry: EngineEntry, here: dict[str, str]) -> list[str]:
    """A sentence if the engine was measured on another machine: here it may be slower or less exact."""
    old = entry.device
    differs = [f"{key} was '{old[key]}', here '{here[key]}'" for key in here if here[key] != old.get(key, here[key])]
    return [f"{entry.name}: measured on another machine: {'; '.join(differs)}"] if differs else []


def _portable(bundle: Path, manifest: Manifest, refused: tuple[Problem, ...]) -> Opened:
    try:
        runner = Portable(bundle / PORTABLE)
    except BackendMissing as error:
        raise BackendMissing(*refused, *error.problems) from error
    last = f"running the portable {PORTABLE} in ONNX Runtime; its latency and accuracy are not those of the manifest"
    notes = (*(str(p) for p in refused), last)
    return Opened(PORTABLE, runner, Signature.from_json(manifest.signature), _PORTABLE_TOLERANCE, notes)
