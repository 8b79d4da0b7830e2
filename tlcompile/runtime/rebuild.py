"""Builds an engine of a bundle on the machine that runs it, from the graph that the bundle carries.

An engine is of one device and one version of its runtime. Where it can't be opened, the same backend builds it anew,
once: it is kept in the user's cache folder under a name made of all that it depends on. The bundle itself stays as its
manifest describes it; `tlcompile finalize` is what changes a bundle.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile import compile
from tlcompile.artifacts import EXIT_FILE, Graph, Runner
from tlcompile.errors import Problem, TlcompileError
from tlcompile.fingerprint import file_digest, text_digest

if TYPE_CHECKING:
    from tlcompile.options import Options
    from tlcompile.package.manifest import EngineEntry


def graph_of(bundle: Path, entry: EngineEntry) -> Path | None:
    """The graph that the engine was built of: its own, or the bundle's where it is an fp32 engine."""
    own = bundle / entry.folder / compile.GRAPH
    if own.is_file():
        return own
    return bundle / "model.onnx" if entry.variant == compile.FP32 else None


def build(bundle: Path, entry: EngineEntry, options: Options, folder: Path) -> None:
    """Compile the engine's graph with `options` into the empty `folder`. TlcompileError where there is no graph."""
    graph = graph_of(bundle, entry)
    if graph is None:
        raise TlcompileError(Problem(entry.name, f"its graph is not in the bundle ({entry.folder}/{compile.GRAPH})"))
    with tempfile.TemporaryDirectory(prefix="tlcompile-") as scratch:
        source = Path(scratch)
        shutil.copyfile(graph, source / "model.onnx")
        for name in ("signature.json", "tokenizer.json", EXIT_FILE):
            if (place := bundle / entry.folder / name).exists():
                shutil.copyfile(place, source / name)
        compile.build(entry.backend, options, Graph(source, ""), entry.variant, folder)
    if graph.name == compile.GRAPH and not (folder / graph.name).exists():
        shutil.copyfile(graph, folder / graph.name)  # what came with its graph keeps it, to be built again


def allowed(bundle: Path, entry: EngineEntry, options: Options) -> bool:
    """Whether the recipe lets this engine be built anew, its graph is here and so is all that a build needs."""
    if (
        getattr(options, "fallback", "portable") != "rebuild"
        or compile.is_later(options)
        or graph_of(bundle, entry) is None
    ):
        return False
    return not compile.runs_here(entry.backend, compile.on_device(entry.backend, options, bundle / entry.folder))


def opened(bundle: Path, entry: EngineEntry, options: Options) -> tuple[Runner, Path]:
    """The engine, built anew or found as an earlier start built it, and the folder where it is kept."""
    there = compile.on_device(entry.backend, options, bundle / entry.folder)
    place = _cache() / _name(bundle, entry, there)
    if place.is_dir():
        try:
            return compile.open_engine(place), place
        except TlcompileError:  # damaged since
            shutil.rmtree(place, ignore_errors=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{place.name[:16]}-", dir=place.parent))
    except OSError as error:
        what = f"can't be built anew: {place.parent} is not writable: {error.strerror}"
        raise TlcompileError(Problem(entry.name, what)) from error
    try:
        build(bundle, entry, there, made)
        _take(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return compile.open_engine(place), place


def _take(made: Path, place: Path) -> None:
    """`made` under its final name, unless another process was first: then theirs is as good."""
    try:
        os.rename(made, place)
    except OSError:
        if not place.is_dir():
            raise


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "tlcompile" / "engines"


def _name(bundle: Path, entry: EngineEntry, options: Options) -> str:
    graph = graph_of(bundle, entry)
    depends = {
        "graph": file_digest(graph) if graph else "",
        "backend": entry.backend,
        "options": options.model_dump(mode="json"),
        "device": compile.device(entry.backend, options),
        "versions": compile.versions(entry.backend),
    }
    return text_digest(json.dumps(depends, sort_keys=True))
