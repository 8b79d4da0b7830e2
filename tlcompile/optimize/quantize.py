"""Static int8 post-training quantization as explicit Q/DQ nodes, in the dialect of the target (see `_qdq`).

Precision lives in the graph, so every runtime that reads it computes the same thing. Preprocessing and softmax stay in
fp32. Ranges of activations are found on the calibration examples by one of four rules (`_ranges`). The graph may be
made easier to quantize first: `smooth` for transformers, `equalize` for mobile convolutions. Weights may be rounded
`adaptive`ly, up or down as each layer's output asks (`_adaptive`), and what int8 adds on average taken off the biases
(`_bias`). `search` looks for the layers that must stay in fp32 (`_mixed`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from tlcompile.artifacts import Feed
from tlcompile.errors import Problem, RecipeError, TlcompileError
from tlcompile.optimize import REFERENCE, Context
from tlcompile.optimize._exclude import named
from tlcompile.optimize._graph import PREPROCESSING
from tlcompile.optimize._told import told
from tlcompile.options import Field, NameList
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    from typing import Self

    import onnx

    from tlcompile.optimize._ranges import Ranges

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
WHERE = "optimize.quantize"
FEWEST = 2
"""Calibration examples below which a range says little."""
NONE: frozenset[str] = frozenset()
Write = Callable[[frozenset[str]], "onnx.ModelProto"]
"""Nodes that are left in fp32 beside the excluded ones -> the int8 graph."""


class Options(Base):
    scheme: Literal["int8"] = "int8"
    calibration: Literal["minmax", "percentile", "entropy", "mse"] = Field(
        "minmax", description="range of an activation: all values seen, or a narrower one with finer steps that clips"
    )
    percentile: float = Field(99.99, gt=50, le=100, description="share of the values that a range holds, in %")
    per_channel: bool = Field(True, description="a scale for each output channel of a weight; false: one for all")
    smooth: float | None = Field(
        None, gt=0, lt=1, description="SmoothQuant's alpha: how far large channels move into the weights; 0.5 is usual"
    )
    equalize: bool = Field(False, description="even out the channels of convolutions that follow each other")
    rounding: Literal["nearest", "adaptive"] = Field(
        "nearest", description="of weights: to the nearest step, or up or down as the layer's output asks (AdaRound)"
    )
    rounding_steps: int = Field(500, ge=1, description="steps of the search for each layer's adaptive rounding")
    bias_correction: bool = Field(False, description="take off what int8 adds to each layer's output on average")
    search: bool = Field(False, description="find the layers that must stay in fp32 to keep the accuracy")
    search_budget_s: float = Field(600, gt=0, description="seconds that the search may take; it can be interrupted")
    exclude: NameList = Field((), description="nodes that stay in fp32, by name or pattern ('*' any text, '[0-9]')")
    min_agreement: float = Field(0.8, ge=0, le=1, description="least share of golden examples that keep their label")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        default = {name: field.default for name, field in type(self).model_fields.items()}
        if self.percentile != default["percentile"] and self.calibration != "percentile":
            raise ValueError(f"percentile is read with calibration = 'percentile', which is '{self.calibration}'")
        if self.rounding_steps != default["rounding_steps"] and self.rounding != "adaptive":
            raise ValueError("rounding_steps is read with rounding = 'adaptive'")
        if self.search_budget_s != default["search_budget_s"] and not self.search:
            raise ValueError("search_budget_s is read with search = true")
        return self


def variant(options: Options) -> str:
    return options.scheme


def tolerance(options: Options) -> Tolerance:
    """int8 moves probabilities; whether that matters is decided on the test split. This catches a broken graph."""
    return Tolerance(max_abs=1.0, agreement=options.min_agreement)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx

    from tlcompile.optimize import _bias, _qdq
    from tlcompile.optimize._layers import errors

    with told(WHERE, "quantized"), tempfile.TemporaryDirectory() as scratch:
        graph = _qdq.prepared(model, Path(scratch) / "prepared.onnx")
        excluded = kept_in_fp32(graph.graph, options)
        graph = _made_easier(graph, excluded, options, context)
        if options.equalize or options.smooth is not None:
            onnx.save(graph, target.with_name(REFERENCE))
        write = _writer(graph, _found(graph, excluded, options, context), excluded, options, context)
        if options.bias_correction:
            _bias.correct(graph, errors(graph, write(NONE), context.calibration()))
        in_fp32 = _searched(model, graph, write, excluded, options, context, target) if options.search else NONE
        onnx.save(write(in_fp32), target)


def _made_easier(model: onnx.ModelProto, excluded: set[str], options: Options, context: Context) -> onnx.ModelProto:
    """The fp32 graph after `equalize` and `smooth`: the same answers, ranges that int8 takes better."""
    import onnx

    from tlcompile.optimize._equalize import equalize
    from tlcompile.optimize._smooth import smooth

    if options.equalize and not equalize(model, context.calibration()):
        raise RecipeError(Problem(f"{WHERE}.equalize", "the graph has no two convolutions in a row to equalize"))
    if options.smooth is not None and not smooth(model, options.smooth, excluded, context.calibration()):
        raise RecipeError(Problem(f"{WHERE}.smooth", "the graph has no product with a weight to smooth"))
    if options.equalize or options.smooth is not None:
        return onnx.shape_inference.infer_shapes(model)
    return model


def _found(model: onnx.ModelProto, excluded: set[str], options: Options, context: Context) -> Ranges:
    """Of every activation that is quantized; TlcompileError where there are too few examples, a NaN, or no layer."""
    from tlcompile.optimize import _qdq, _ranges
    from tlcompile.optimize._observe import observe

    names = _qdq.activations(model.graph, excluded)
    if not names:
        raise TlcompileError(Problem(WHERE, f"nothing is left to quantize: no {', '.join(_qdq.kinds(model.graph))}"))
    seen = [0]

    def counted() -> Iterator[Feed]:
        for feed in context.calibration():
            seen[0] += len(next(iter(feed.values())))
            yield feed

    symmetric = _qdq.is_symmetric(context.dialect)
    found = _ranges.find(observe(model, names, counted()), options.calibration, options.percentile, symmetric)
    if seen[0] < FEWEST:
        what = f"{seen[0]} examples are too few to find ranges; at least {FEWEST}"
        raise TlcompileError(Problem("data.calibration", what))
    return found


def _writer(model: onnx.ModelProto, ranges: Ranges, excluded: set[str], options: Options, context: Context) -> Write:
    """What makes int8 graphs of `model` as it is when asked; weights are rounded as it is now."""
    from tlcompile.optimize import _adaptive, _qdq

    def write(in_fp32: frozenset[str]) -> onnx.ModelProto:
        made = _qdq.write(model, ranges, excluded | in_fp32, context.dialect, options.per_channel)
        _adaptive.put_codes(made, codes)
        return made

    codes: _adaptive.Codes = {}
    if options.rounding == "adaptive":
        codes = _adaptive.adapted(model, write(NONE), context.calibration(), options.rounding_steps)
    return write


def _searched(
    source: Path,
    model: onnx.ModelProto,
    write: Write,
    excluded: set[str],
    options: Options,
    context: Context,
    target: Path,
) -> frozenset[str]:
    """What the search leaves in fp32; `search.json` beside `target` says what it found."""
    import onnx

    from tlcompile.artifacts import Signature, read_json, write_json
    from tlcompile.optimize import _mixed, _trials

    def timed(measure: Callable[[Path], float], in_fp32: frozenset[str]) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            onnx.save(write(in_fp32), Path(scratch) / "model.onnx")
            return measure(Path(scratch) / "model.onnx")

    signature = Signature.from_json(read_json(source.with_name("signature.json")))
    layers = _mixed.layers_of(model.graph, excluded)
    with tempfile.TemporaryDirectory() as scratch:
        trials = _trials.start(model, write, signature, context, context.work or Path(scratch))
        latency = partial(timed, context.latency) if context.latency else None
        found = _mixed.search(trials, model.graph, layers, context.margin, options.search_budget_s, latency)
    write_json(target.with_name("search.json"), found.record)
    return found.in_fp32


def kept_in_fp32(graph: onnx.GraphProto, options: Options) -> set[str]:
    """Nodes of the preprocessing, products of activations, and what the recipe names; RecipeError: no such node.

    ONNX Runtime's quantizer has a switch for products without a constant, which it does not heed where it writes Q/DQ.
    """
    constants = {i.name for i in graph.initializer}
    inner = {n.name for n in graph.node if n.op_type in ("MatMul", "Gemm") and not constants & set(n.input)}
    first = {n.name for n in graph.node if n.name.startswith(PREPROCESSING)}
    return inner | first | named(graph, options.exclude, WHERE)
