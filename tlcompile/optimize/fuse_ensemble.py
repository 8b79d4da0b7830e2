"""Several networks in one graph: raw input -> each member -> one answer.

Preprocessing that two members share, node by node and constant by constant, is computed once; members may take other
sizes and be in other precisions. Texts are cut as late as the member that reads most of them asks for; the others cut
them again. Nodes and weights of member i are named `member<i>/…`. Views belong to members: fuse them first
(`fuse_tta`), the weighted mean of the members' answers comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Strict, field_validator

from tlcompile.artifacts import FIRST_VOICE, Feed, Signature, TextSpec, read_json
from tlcompile.errors import Problem, RecipeError, nearest
from tlcompile.optimize import Context, fuse_tta
from tlcompile.optimize._shares import shares
from tlcompile.optimize.fuse_tta import special
from tlcompile.options import Field, NameList, RecipePath
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    import onnx

    from tlcompile.optimize._views_tokens import Special

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
WHERE = "ensemble"
_Numbers = Annotated[tuple[float, ...], Strict(False)]
_Heat = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Strict(False)]


class Options(Base):
    members: Annotated[tuple[RecipePath, ...], Strict(False)] = Field(
        (), description="further graphs: ONNX files with a signature.json beside them"
    )
    names: NameList = Field((), description="what the members are called in messages; this graph's own name first")
    aggregation: Literal["probabilities", "logits", "max"] = Field(
        "probabilities", description="the mean of the members' probabilities or of their logits, or the largest"
    )
    weights: Annotated[tuple[float | _Numbers, ...], Strict(False)] = Field(
        (), description="one a member, or a list of one a class for each; they sum to one; equal where not given"
    )
    temperatures: _Heat = Field((), description="the logits of each member are divided by its own; 1 if not given")
    temperature: float = Field(1.0, gt=0, description="of all members, after their own")
    exit_at: float | None = Field(
        None, gt=0, le=1, description="the first member alone where its answer is at least so sure"
    )

    _sum_to_one = field_validator("weights")(shares)


@dataclass(frozen=True)
class Member:
    """A graph in memory, what it takes and gives, what it is called in messages, and how its texts are framed."""

    name: str
    model: onnx.ModelProto
    signature: Signature
    framing: Special | None = None


def variant(options: Options) -> str:
    return "ensemble"


def tolerance(options: Options) -> Tolerance:
    """Against the loop over the members."""
    return Tolerance(max_abs=2e-2, agreement=0.95)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx

    fused = fuse(_members(model, options), options)
    onnx.checker.check_model(fused, full_check=True)
    onnx.save(fused, target)


def expected(model: Path, options: Options, feeds: Sequence[Feed]) -> list[Feed]:
    """What the graph after this pass must answer: one member after the other is run."""
    import numpy as np

    from tlcompile.optimize._early_exit import aggregate
    from tlcompile.optimize._views_mean import activation_of, in_unit

    files, signature = _files(model, options), _signature(model)
    heat = options.temperatures or (1.0,) * len(files)
    answers = [_alone(file, feeds) for file in files]
    found = []
    for outputs in zip(*answers, strict=True):
        logits = np.stack([output["logits"] / t for output, t in zip(outputs, heat, strict=True)])
        value = aggregate(logits, activation_of(signature), options)
        found.append({signature.answer: in_unit(value, signature)})
    return found


def _alone(file: Path, feeds: Sequence[Feed]) -> list[Feed]:
    """What a member answers by itself, of texts as long as it takes."""
    from tlcompile import parity
    from tlcompile.optimize._views_outputs import beginning

    spec, framing = _signature(file).spec, special(file)
    if isinstance(spec, TextSpec) and framing:
        feeds = [beginning(feed, spec.max_length, framing) for feed in feeds]
    return parity.run_graph(file, list(feeds))


def signature_after(before: Signature, options: Options) -> Signature:
    """What the graph after this pass takes: texts as long as the member takes that reads most of them."""
    return longest([before, *(_signature(member.absolute) for member in options.members)])  # type: ignore[attr-defined]


def longest(signatures: Sequence[Signature]) -> Signature:
    """The first of `signatures`, with texts as long as any of them takes."""
    first, lengths = signatures[0], [one.spec.max_length for one in signatures if isinstance(one.spec, TextSpec)]
    if not isinstance(first.spec, TextSpec):
        return first
    return replace(first, spec=replace(first.spec, max_length=max(lengths)))


def _signature(model: Path) -> Signature:
    return Signature.from_json(read_json(model.with_name("signature.json")))


def _files(model: Path, options: Options) -> list[Path]:
    return [model, *(member.absolute for member in options.members)]  # type: ignore[attr-defined]


def _members(model: Path, options: Options) -> list[Member]:
    import onnx

    files = _files(model, options)
    names = options.names or tuple(str(i) for i in range(len(files)))
    if len(names) != len(files):
        raise RecipeError(Problem(f"{WHERE}.names", f"expected {len(files)} names, found {len(names)}"))
    return [Member(n, onnx.load(f), _signature(f), special(f)) for n, f in zip(names, files, strict=True)]


def fuse(members: Sequence[Member], options: Options) -> onnx.ModelProto:
    """One graph with the inputs and outputs of the first member, see `signature_after`.

    RecipeError: members or weights that don't fit.
    """
    from tlcompile.optimize import _views_mean as mean
    from tlcompile.optimize._early_exit import leave
    from tlcompile.optimize._joined import Joined
    from tlcompile.optimize._views_cut import Writer, cut

    if found := _problems(members, options):
        raise RecipeError(*found)
    first = members[0]
    taken = longest([member.signature for member in members])
    parts = [cut(_reading(member, taken), WHERE) for member in members]
    activation = mean.activation_of(first.signature)
    write = Writer(f"{WHERE}/")
    joined = Joined(first.model)
    heat = options.temperatures or (1.0,) * len(members)
    width = parts[0].width

    def logits(index: int, into: Writer) -> str:
        found = joined.add(parts[index], f"member{index}/", into.nodes)
        return mean.scaled(found, heat[index], into)

    def combined(found: Sequence[str], how: Options, into: Writer) -> str:
        stacked = into("Concat", *found, axis=0) if len(found) > 1 else found[0]
        stacked = into("Reshape", stacked, into.whole(len(found), -1, width))
        return mean.combine(stacked, into.constant(mean.column(how, len(found))), activation, how, into)

    own = logits(0, write)

    def every(rest: Writer) -> str:
        return combined([own, *(logits(i, rest) for i in range(1, len(members)))], options, rest)

    if options.exit_at is None:
        value = every(write)
    else:
        own = write("Identity", own, called=FIRST_VOICE)
        alone = combined([own], options.model_copy(update={"weights": ()}), write)
        value = leave(alone, every, activation, options, width, joined.constants, write)
    mean.answer(value, parts[0], activation, mean.averages_logits(options.aggregation, activation), write)
    return joined.model(write)


def _reading(member: Member, taken: Signature) -> onnx.ModelProto:
    """The graph of `member`, which cuts texts itself where others read more of them."""
    own, most = member.signature.spec, taken.spec
    if not isinstance(own, TextSpec) or not isinstance(most, TextSpec) or own.max_length == most.max_length:
        return member.model
    head = fuse_tta.Options(views=("head",), aggregation="logits")
    return fuse_tta.fuse(member.model, member.signature, head, member.framing, "head/")


def _problems(members: Sequence[Member], options: Options) -> list[Problem]:
    """What keeps `members` from being one graph, and what `options` have that does not fit them."""
    from tlcompile.optimize import _views_mean as mean

    if len(members) < 2:
        return [Problem(f"{WHERE}.members", f"expected at least two members, found {len(members)}")]
    first, found = members[0], []
    for name in sorted({m.name for m in members if [o.name for o in members].count(m.name) > 1}):
        found.append(Problem(f"{WHERE}.members", f"two members are called '{name}'"))
    for member in members[1:]:
        one, other = first.signature, member.signature
        if one.classes != other.classes:
            found.append(_classes(first, member))
        if (one.task, one.target) != (other.task, other.target):
            found.append(Problem(f"{WHERE}: {member.name}", f"learnt {_learnt(other)}, '{first.name}' {_learnt(one)}"))
        if [(t.name, t.dtype) for t in one.inputs] != [(t.name, t.dtype) for t in other.inputs]:
            found.append(Problem(f"{WHERE}: {member.name}", f"takes other inputs than '{first.name}'"))
    if options.temperatures and len(options.temperatures) != len(members):
        what = f"expected {len(members)} numbers, found {len(options.temperatures)}"
        found.append(Problem(f"{WHERE}.temperatures", what))
    activation, width = mean.activation_of(first.signature), int(first.signature.outputs[0].shape[-1])
    found += mean.problems(options.weights, options.aggregation, activation, len(members), width, WHERE)
    if options.exit_at is not None and activation == "identity":
        found.append(Problem(f"{WHERE}.exit_at", "is for classes: a number has no confidence"))
    return found


def _learnt(signature: Signature) -> str:
    return signature.task + (f" of '{signature.target.name}'" if signature.target else "")


def _classes(first: Member, member: Member) -> Problem:
    """In which class two members differ first."""
    ours, theirs = first.signature.classes, member.signature.classes
    where = f"{WHERE}: {member.name}"
    if set(ours) == set(theirs):
        return Problem(where, f"has the classes of '{first.name}' in another order")
    strange = [name for name in theirs if name not in ours] or [name for name in ours if name not in theirs]
    what = f"has {len(theirs)} classes, '{first.name}' {len(ours)}; '{strange[0]}' is in one of them only"
    return Problem(where, what, nearest(strange[0], [n for n in {*ours, *theirs} if n != strange[0]]))
