"""Test-time augmentation inside the graph: raw input -> views as nodes -> the network -> one answer.

The preprocessing is computed once. `layout` says how the network sees k views:
    batched    once, with k times the batch
    unrolled   k times in a row, on one copy of the weights; the activations stay as small as without views
Works on a graph in any precision (fp32, fp16, Q/DQ), after the passes that make it. By design the answers are others
than before; `expected` makes them with a loop over the views, which is what this pass is held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Strict, field_validator

from tlcompile.artifacts import Feed, Signature, TextSpec, read_json
from tlcompile.errors import Problem, RecipeError
from tlcompile.optimize import Context
from tlcompile.optimize import _views as grammar
from tlcompile.optimize._shares import shares
from tlcompile.options import Field, NameList
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    import onnx

    from tlcompile.optimize._views_tokens import Special

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
PREFIX = "tta/"
WHERE = "tta"

_Row = Annotated[tuple[float, ...], Strict(False)]


class Options(Base):
    views: NameList = Field(("identity", "hflip"), description="see the list of views; 'five-crop', 'ten-crop'")
    aggregation: Literal["probabilities", "logits", "max"] = Field(
        "probabilities", description="the mean of the views' probabilities or of their logits, or the largest"
    )
    weights: Annotated[tuple[float | _Row, ...], Strict(False)] = Field(
        (), description="one a view, or a list of one a class for each view; they sum to one; equal where not given"
    )
    temperature: float = Field(1.0, gt=0, description="logits are divided by it before they are averaged")
    exit_at: float | None = Field(
        None, gt=0, le=1, description="the first view alone where its answer is at least so sure"
    )
    document_tokens: int | None = Field(
        None, ge=3, description="texts are cut at this many tokens, and no longer at what the network takes"
    )
    layout: Literal["batched", "unrolled"] = Field("batched", description="one run of the network, or one a view")

    _sum_to_one = field_validator("weights")(shares)


def variant(options: Options) -> str:
    return "tta"


def tolerance(options: Options) -> Tolerance:
    """Against the loop over the views. In Q/DQ a value at the border of two levels may fall to the other side."""
    return Tolerance(max_abs=2e-2, agreement=0.95)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx

    signature = Signature.from_json(read_json(model.with_name("signature.json")))
    fused = fuse(onnx.load(model), signature, options, special(model))
    onnx.checker.check_model(fused, full_check=True)
    onnx.save(fused, target)


def special(model: Path) -> Special | None:
    """How the tokenizer beside `model` frames texts."""
    from tlcompile.optimize._views_tokens import special_of

    tokenizer = model.with_name("tokenizer.json")
    return special_of(tokenizer) if tokenizer.exists() else None


def expected(model: Path, options: Options, feeds: Sequence[Feed]) -> list[Feed]:
    """What the graph after this pass must answer: the network is run on one view after the other."""
    from tlcompile.optimize._views_outputs import looped

    signature = Signature.from_json(read_json(model.with_name("signature.json")))
    return looped(model, signature, options, feeds)


def signature_after(before: Signature, options: Options) -> Signature:
    """What the graph after this pass takes: longer texts, where `document_tokens` says so."""
    if options.document_tokens is None or not isinstance(before.spec, TextSpec):
        return before
    return replace(before, spec=replace(before.spec, max_length=max(before.spec.max_length, options.document_tokens)))


def fuse(
    model: onnx.ModelProto, signature: Signature, options: Options, framing: Special | None = None, prefix: str = PREFIX
) -> onnx.ModelProto:
    """`model` with its views inside, in nodes named with `prefix`; `framing` says how texts are framed.

    RecipeError, TlcompileError: the options don't fit the task, or the graph can't be cut.
    """
    from tlcompile.optimize import _views_mean as mean
    from tlcompile.optimize._views_cut import Writer, cut
    from tlcompile.optimize._voices import Voices

    parts = cut(model, WHERE)
    views = grammar.parse(options.views, signature.kind)
    activation = mean.activation_of(signature)
    if found := _problems(options, views, signature, parts.width):
        raise RecipeError(*found)
    write = Writer(prefix)
    value = Voices(parts, signature.spec, framing, options, activation).answer(views, write)
    mean.answer(value, parts, activation, mean.averages_logits(options.aggregation, activation), write)
    return parts.joined(write)


def _problems(options: Options, views: Sequence[grammar.View], signature: Signature, width: int) -> list[Problem]:
    from tlcompile.optimize import _views_mean as mean

    activation = mean.activation_of(signature)
    found = mean.problems(options.weights, options.aggregation, activation, len(views), width, WHERE)
    dynamic = [view.name for view in views if view.all_windows]
    if dynamic and len(views) > 1:
        found.append(Problem(f"{WHERE}.views", f"'{dynamic[0]}' is all windows of a document: no other view beside it"))
    if dynamic and len(options.weights):
        found.append(Problem(f"{WHERE}.weights", f"'{dynamic[0]}' has as many windows as a document needs: no weights"))
    if dynamic and options.layout == "unrolled":
        found.append(
            Problem(f"{WHERE}.layout", f"'{dynamic[0]}' has as many windows as a document needs: batched only")
        )
    if options.exit_at is not None and (len(views) < 2 or activation == "identity"):
        found.append(Problem(f"{WHERE}.exit_at", "is for classes, from two views on"))
    return found
