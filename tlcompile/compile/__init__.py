"""Graph -> engine -> answers. One backend a file; this module is the only door to them.

A backend is a plug-in module that fits `Backend`. It knows neither tasks nor metrics. Its file also runs on the device
that answers, so it imports only the standard library, `tlcompile.errors`, `options`, `artifacts`, helpers of this
folder and the runtime it is named after.

An engine folder holds the backend's own files, `engine.json`, `signature.json` and, for text, `tokenizer.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from tlcompile import registry
from tlcompile.artifacts import Graph, Runner, Signature, read_json, write_json
from tlcompile.compile._cpu import cores
from tlcompile.compile._told import told
from tlcompile.errors import BackendMissing, BundleError, Problem, TlcompileError
from tlcompile.options import Options

__all__ = ["Backend", "build", "describe", "device", "dialect", "open_engine", "runs_here", "versions"]


class Backend(Protocol):
    """What a module of this folder must define."""

    PACKAGES: tuple[str, ...]

    @property
    def Options(self) -> type[Options]: ...

    def dialect(self, options: Any) -> str:
        """The Q/DQ dialect that its int8 kernels want: `x86-vnni`, `x86`, `arm` or `tensorrt`."""

    def missing(self) -> str:
        """Which library is not installed and how to install it, or ''. Imports nothing heavy."""

    def runs_here(self, options: Any) -> str:
        """Why an engine with these options can't run, or not as on its device, on this machine; '' where it can."""

    def device(self, options: Any) -> dict[str, str]:
        """What identifies the hardware and driver that the engine or its speed depend on. Cheap."""

    def build(self, graph: Graph, options: Any, folder: Path) -> dict[str, Any]:
        """Write the engine's files into `folder`; return what `engine.json` shall say about them."""

    def open(self, folder: Path, options: Any) -> Runner:
        """Load the engine. Its `run` may be called from several threads at once."""


def _backend(name: str) -> Backend:
    return cast(Backend, registry.load("compile", name))


def _installed(name: str) -> Backend:
    backend = _backend(name)
    if reason := backend.missing():
        raise BackendMissing(Problem(name, reason))
    return backend


def dialect(backend_name: str, options: Options) -> str:
    return _backend(backend_name).dialect(options)


def runs_here(backend_name: str, options: Options) -> str:
    """'' where an engine with these options runs on this machine as on its device, else the reason in a sentence."""
    backend = _backend(backend_name)
    return backend.missing() or backend.runs_here(options)


def device(backend_name: str, options: Options) -> dict[str, str]:
    return _backend(backend_name).device(options)


def versions(backend_name: str) -> dict[str, str]:
    """Installed versions of the distributions that the backend uses."""
    from importlib import metadata

    found = {}
    for package in _backend(backend_name).PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def build(backend_name: str, options: Options, graph: Graph, variant: str, folder: Path) -> None:
    """Compile `graph` into the empty `folder`. `variant` is the graph's precision in a word, e.g. `int8`."""
    import shutil

    backend = _installed(backend_name)
    try:
        facts = backend.build(graph, options, folder)
    except TlcompileError:
        raise
    except Exception as error:  # runtimes raise classes of their own, often bare RuntimeError
        raise TlcompileError(Problem(backend_name, f"the build failed: {told(error)}")) from error
    why_not = backend.runs_here(options)
    engine = {
        **facts,
        "backend": backend_name,
        "options": options.model_dump(mode="json"),
        "variant": variant,
        "versions": versions(backend_name),
        "device": backend.device(options),
        "runs_here": not why_not,
        "why_not": why_not,
    }
    write_json(folder / "engine.json", engine)
    for name in ("signature.json", "tokenizer.json"):
        if (graph.folder / name).exists():
            shutil.copyfile(graph.folder / name, folder / name)


def open_engine(folder: Path) -> Runner:
    """The engine in `folder`, ready to run; every feed is checked against its signature first."""
    from tlcompile.compile._feed import Checked

    name, backend, options = _read(folder)
    try:
        signature = Signature.from_json(read_json(folder / "signature.json"))
        return Checked(backend.open(folder, options), signature, name)
    except TlcompileError:
        raise
    except Exception as error:  # runtimes raise classes of their own
        raise BundleError(Problem(str(folder), f"{name} can't load this engine: {told(error)}")) from error


def describe(folder: Path) -> dict[str, Any]:
    """What the engine in `folder` runs with here: `backend`, CPU `threads` (None: not its choice) and `device`."""
    name, backend, options = _read(folder)
    threads = getattr(options, "threads", None)
    return {"backend": name, "threads": cores() if threads == 0 else threads, "device": backend.device(options)}


def _read(folder: Path) -> tuple[str, Backend, Options]:
    """(name, backend, options) of an engine folder."""
    try:
        info = read_json(folder / "engine.json")
        name, raw = str(info["backend"]), info["options"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(Problem(str(folder), f"not an engine folder: {told(error)}")) from error
    backend = _installed(name)
    try:
        return name, backend, backend.Options.model_validate(raw)
    except ValueError as error:
        raise BundleError(Problem(f"{folder / 'engine.json'}: options", str(error))) from error
