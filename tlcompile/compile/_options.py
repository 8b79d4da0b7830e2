"""The options that every backend has, and what they mean for an engine folder.

An engine that is marked `finalize` is not built where the bundle is made: its folder carries the graph, and
`tlcompile finalize` builds it on the device. `fallback` says what a device may do with an engine that it can't open.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tlcompile.errors import Problem, TlcompileError
from tlcompile.options import Field, Options, PathText

if TYPE_CHECKING:
    from tlcompile.artifacts import Graph

GRAPH = "graph.onnx"
LATER = "it is to be built on its device: tlcompile finalize BUNDLE"
FP32 = "fp32"  # the variant whose graph is the bundle's portable one


class EngineOptions(Options):
    """The base of every backend's options."""

    finalize: bool = Field(
        False, description="do not build now: the bundle carries the graph, `tlcompile finalize` builds on the device"
    )
    fallback: Literal["rebuild", "portable", "none"] = Field(
        "rebuild",
        description="on a device that can't open the engine: rebuild = build it anew there from its graph, else go on "
        "as portable does; portable = the next engine, at last the portable graph in ONNX Runtime; none = an error",
    )
    early_exit: Literal["auto", "split"] = Field(
        "auto",
        description="how a variant leaves early: split = two engines, the second asked for those of a batch only that "
        "the first is not sure of; auto = one with a branch where the backend runs branches, else split",
    )


def is_later(options: Options) -> bool:
    """Whether an engine with these options is built on its device. A third party's options need not say."""
    return bool(getattr(options, "finalize", False))


def located(text: str) -> Path:
    """Where a path option points. Read back from an engine folder it knows no recipe, and is taken as it stands."""
    return text.absolute if isinstance(text, PathText) else Path(text).expanduser()


def keep_graph(graph: Graph, folder: Path) -> None:
    """The graph goes into the engine's folder, so that its device can build from it."""
    shutil.copyfile(graph.model, folder / GRAPH)


def refuse_outside_weights(model: Path) -> None:
    """An engine folder takes one file; a graph that keeps weights in others would be cut off from them."""
    try:
        import onnx
        from onnx.external_data_helper import uses_external_data
    except ImportError:  # on a device: the graph comes out of a bundle, which was checked when it was made
        return
    loaded: Any = onnx.load(model, load_external_data=False)
    for tensor in filter(uses_external_data, loaded.graph.initializer):
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        what = f"the weights '{tensor.name}' are in another file ('{place}'); save the graph with its weights inside"
        raise TlcompileError(Problem(str(model), what))
