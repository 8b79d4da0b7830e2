"""Graph -> engine -> answers. One backend a file; this module is the only door to them.

A backend is a plug-in module that fits `Backend`. It knows neither tasks nor metrics. Its file also runs on the device
that answers, so it imports only the standard library, `tlcompile.errors`, `options`, `artifacts`, helpers of this
folder and the runtime it is named after.

An engine folder holds the backend's own files, `engine.json`, `signature.json` and, for text, `tokenizer.json`. Where
its device may have to build it, the graph lies in it too, as `graph.onnx`. A library that tells what it made of the
graph has `layers.json`, or one for each of its plans, `layers-NAME.json`: [{name, kind, tactic, inputs: types}].
A variant that leaves early may be two engines: see `_split`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from tlcompile import registry
from tlcompile.artifacts import EXIT_FILE, Graph, Runner, Signature, read_json, write_json
from tlcompile.compile._cpu import cores
from tlcompile.compile._options import FP32, GRAPH, LATER, is_later, located, refuse_outside_weights
from tlcompile.compile._told import told
from tlcompile.errors import BackendMissing, BundleError, Problem, TlcompileError
from tlcompile.options import Options, PathText

__all__ = [
    "FP32",
    "GRAPH",
    "Backend",
    "build",
    "carried",
    "describe",
    "device",
    "dialect",
    "is_later",
    "on_device",
    "open_engine",
    "refuses",
    "runs_here",
    "splits",
    "unfit",
    "versions",
]


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
        """Load the engine. Its `run` may be called from several threads at once. Where it has `notes`, they are
        sentences about what is not as it was built, for example nodes that run on the CPU.
        """

    # Optional: HERE, options that change where an engine is built on the machine that runs it. NOT_IN_KEY, options that
    # make a build or a start quicker and the engine no other. KEEP_GRAPH = True: engines fit one kind of device, so the
    # graph goes along. CARRIED, option -> name in the engine folder of a file that goes along to be built with.
    # CONVERTERS, those of PACKAGES that build an engine and that its device does without.
    # OPSETS = (9, 20): the lowest and highest ONNX opset that its library reads, where not all of `[export] opset`.
    # BRANCHES = True: it runs ONNX `If`, and of its two branches only the one that is taken.
    # INPUTS_ONLY = True: the engine is fed the inputs of our graphs, and no tensor that another engine made.
    # refuses(variant, kind) -> str: why no engine of this precision (`int8`) can be made for `image` or `text`.


def _backend(name: str) -> Backend:
    return cast(Backend, registry.load("compile", name))


def _installed(name: str) -> Backend:
    backend = _backend(name)
    if reason := backend.missing():
        raise BackendMissing(Problem(name, reason))
    return backend


def dialect(backend_name: str, options: Options) -> str:
    return _backend(backend_name).dialect(options)


def refuses(backend_name: str, variant: str, kind: str) -> str:
    """Why the backend makes no engine of `variant` (its last part is the precision) for `image` or `text`; ''."""
    judge = getattr(_backend(backend_name), "refuses", None)
    return str(judge(variant.rpartition("-")[2], kind)) if judge else ""


def unfit(options: Options, tokens: int | None) -> list[Problem]:
    """Why an engine with these options can't be judged as the recipe says: see `ProfileOptions.unfit`."""
    judge = getattr(options, "unfit", None)
    return list(judge(tokens)) if judge else []


def splits(backend_name: str, options: Options) -> bool:
    """Whether a variant that leaves early is two engines of this backend: ONNX `If` is not run, or not wanted."""
    branches = getattr(_backend(backend_name), "BRANCHES", False)
    return not branches or getattr(options, "early_exit", "auto") == "split"


def runs_here(backend_name: str, options: Options) -> str:
    """'' where an engine with these options runs on this machine as on its device, else the reason in a sentence."""
    if is_later(options):
        return LATER
    backend = _backend(backend_name)
    return backend.missing() or backend.runs_here(options)


def device(backend_name: str, options: Options) -> dict[str, str]:
    """Facts about the hardware and driver; none where the engine is built on another machine, later."""
    return {} if is_later(options) else _backend(backend_name).device(options)


def on_device(backend_name: str, options: Options, folder: Path) -> Options:
    """The options to build the engine in `folder` with, on the machine that will run it."""
    backend = _backend(backend_name)
    changed: dict[str, Any] = dict(getattr(backend, "HERE", {}))
    if is_later(options):
        changed["finalize"] = False
    for option, name in carried(backend_name).items():
        changed[option] = PathText(str((folder / name).absolute()), Path()) if (folder / name).is_file() else None
    return options.model_copy(update=changed)


def carried(backend_name: str) -> dict[str, str]:
    """Option -> name in the engine folder of a file that goes along to be built with."""
    return dict(getattr(_backend(backend_name), "CARRIED", {}))


def versions(backend_name: str) -> dict[str, str]:
    """Installed versions of the distributions that an engine of the backend needs where it runs."""
    from importlib import metadata

    found, backend = {}, _backend(backend_name)
    for package in (name for name in backend.PACKAGES if name not in getattr(backend, "CONVERTERS", ())):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def build(backend_name: str, options: Options, graph: Graph, variant: str, folder: Path) -> None:
    """Compile `graph` into the empty `folder`. `variant` is the graph's precision in a word, e.g. `int8`."""
    import shutil

    facts = _built(backend_name, options, graph, folder)
    if _goes_along(backend_name, options, variant) and not (folder / GRAPH).exists():
        shutil.copyfile(graph.model, folder / GRAPH)
    why_not = runs_here(backend_name, options)
    engine = {
        **facts,
        "backend": backend_name,
        "options": options.model_dump(mode="json"),
        "variant": variant,
        "versions": versions(backend_name),
        "device": device(backend_name, options),
        "runs_here": not why_not,
        "why_not": why_not,
    }
    write_json(folder / "engine.json", engine)
    kept = ("signature.json", "tokenizer.json", *((EXIT_FILE,) if splits(backend_name, options) else ()))
    for name in (name for name in kept if (graph.folder / name).exists()):
        shutil.copyfile(graph.folder / name, folder / name)


def _built(backend_name: str, options: Options, graph: Graph, folder: Path) -> dict[str, Any]:
    """What the backend says of the engine that it wrote into `folder`; its errors become ours."""
    from tlcompile.compile import _split

    try:
        refuse_outside_weights(graph.model)
        if is_later(options):
            for option, name in carried(backend_name).items():
                _take_along(getattr(options, option), folder / name)
            return {}
        backend = _installed(backend_name)
        if splits(backend_name, options) and (graph.folder / EXIT_FILE).exists():
            continues = not getattr(backend, "INPUTS_ONLY", False)
            return _split.build(graph, lambda part, place: backend.build(part, options, place), continues, folder)
        return backend.build(graph, options, folder)
    except TlcompileError:
        raise
    except Exception as error:  # runtimes raise classes of their own, often bare RuntimeError
        raise TlcompileError(Problem(backend_name, f"the build failed: {told(error)}")) from error


def _goes_along(backend_name: str, options: Options, variant: str) -> bool:
    """Whether the graph lies with its engine, which may have to be built where it runs.

    An fp32 engine is built anew from the bundle's graph. One that waits has its own: variants are compared by size.
    """
    rebuilds = getattr(options, "fallback", "") == "rebuild" and getattr(_backend(backend_name), "KEEP_GRAPH", False)
    return is_later(options) or (rebuilds and variant != FP32)


def _take_along(path: str | None, place: Path) -> None:
    import shutil

    if path is not None and located(path).is_file():
        shutil.copyfile(located(path), place)


def open_engine(folder: Path) -> Runner:
    """The engine in `folder`, ready to run; every feed is checked against its signature first."""
    from tlcompile.compile import _split
    from tlcompile.compile._feed import Checked

    name, backend, options = _read(folder)
    if is_later(options):
        raise BundleError(Problem(str(folder), LATER))
    try:
        signature = Signature.from_json(read_json(folder / "signature.json"))
        if (folder / EXIT_FILE).exists():
            return Checked(_split.opened(folder, signature, lambda part: backend.open(part, options)), signature, name)
        return Checked(backend.open(folder, options), signature, name)
    except TlcompileError:
        raise
    except Exception as error:  # runtimes raise classes of their own
        raise BundleError(Problem(str(folder), f"{name} can't load this engine: {told(error)}")) from error


def describe(folder: Path) -> dict[str, Any]:
    """What the engine in `folder` runs with here: `backend`, CPU `threads` (None: not its choice) and `device`."""
    name, _, options = _read(folder)
    threads = getattr(options, "threads", None)
    return {"backend": name, "threads": cores() if threads == 0 else threads, "device": device(name, options)}


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
