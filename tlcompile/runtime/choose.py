"""Which engine of a bundle runs on this machine: the one asked for, else the first of the manifest that does.

Nothing is chosen in silence: each engine that was passed over leaves a sentence. An engine that was asked for by name
is never replaced by another. What may be done with an engine that can't be opened is the recipe's choice, its target's
`fallback`: build it anew from the graph (`rebuild`), go on to the next and at last to the portable graph, or stop.
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
from tlcompile.runtime import rebuild
from tlcompile.runtime.portable import Portable

PORTABLE = "model.onnx"
GOLDEN = "golden.npz"
_PORTABLE_TOLERANCE = Tolerance(max_abs=5e-3, agreement=1.0)  # the golden outputs are this graph's, from another CPU


@dataclass(frozen=True)
class Opened:
    """An engine ready to run, and sentences about those that were passed over before it."""

    name: str
    runner: Runner
    signature: Signature
    tolerance: Tolerance
    golden: Path
    notes: tuple[str, ...]


def choose(bundle: Path, manifest: Manifest, target: str) -> Opened:
    """Open the engine of the name, target or backend `target`, or with '' the first that runs here.

    BundleError where nothing is called `target`, BackendMissing where nothing of it runs here, or where an engine does
    not whose target has the fallback `none`.
    """
    if target == PORTABLE:
        return _portable(bundle, manifest, ())
    refused: list[Problem] = []
    for entry in asked(manifest, target):
        try:
            options = options_of(entry)
            runner, said = _open(bundle, entry, options)
        except TlcompileError as error:
            refused.append(Problem(entry.name, f"does not run here: {_sentence(error)}"))
            if entry.options.get("fallback") == "none":
                raise BackendMissing(*refused, Problem(entry.name, "its recipe allows no fallback")) from error
            continue
        signature = Signature.from_json(read_json(bundle / entry.folder / "signature.json"))
        notes = (*(str(p) for p in refused), *said, *getattr(runner, "notes", ()))
        return Opened(entry.name, runner, signature, entry.tolerance, bundle / entry.golden, notes)
    if target:
        raise BackendMissing(*refused)
    return _portable(bundle, manifest, tuple(refused))


def _open(bundle: Path, entry: EngineEntry, options: Options) -> tuple[Runner, list[str]]:
    """The engine, and sentences on how it is not as it was measured."""
    try:
        if reason := compile.runs_here(entry.backend, options):
            raise BackendMissing(reason)
        runner = compile.open_engine(bundle / entry.folder)
        return runner, _elsewhere(entry, compile.device(entry.backend, options))
    except TlcompileError as error:
        if not rebuild.allowed(bundle, entry, options):
            raise
        runner, place = rebuild.opened(bundle, entry, options)
        note = f"{entry.name}: can't be opened here ({_sentence(error)}); built anew from its graph, kept in {place}"
        return runner, [note]


def _sentence(error: TlcompileError) -> str:
    return "; ".join(str(problem) for problem in error.problems)


def asked(manifest: Manifest, target: str) -> list[EngineEntry]:
    """The engine of the name `target`, else those of that target or backend; all for ''. BundleError where none is."""
    found = [engine for engine in manifest.engines if target == engine.name]
    found = found or [engine for engine in manifest.engines if target in ("", engine.target, engine.backend)]
    if not found:
        known = [*(engine.name for engine in manifest.engines), PORTABLE]
        what = f"no engine is called '{target}': expected {one_of(known)}"
        raise BundleError(Problem(manifest.name, what, nearest(target, known)))
    return found


def options_of(entry: EngineEntry) -> Options:
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
    signature = Signature.from_json(manifest.signature)
    return Opened(PORTABLE, runner, signature, _PORTABLE_TOLERANCE, bundle / GOLDEN, notes)
