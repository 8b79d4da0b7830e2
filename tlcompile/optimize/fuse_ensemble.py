"""Several networks in one graph: raw input -> each member -> one answer.

Preprocessing that two members share, node by node and constant by constant, is computed once; members may take other
sizes and be in other precisions. Nodes and weights of member i are named `member<i>/…`. Views belong to members: fuse
them first (`fuse_tta`), the weighted mean of the members' answers comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Strict

from tlcompile.artifacts import Feed, Signature, read_json
from tlcompile.errors import Problem, RecipeError, nearest
from tlcompile.optimize import Context
from tlcompile.options import Field, NameList, RecipePath
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
WHERE = "ensemble"
_Numbers = Annotated[tuple[float, ...], Strict(False)]


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
    temperatures: _Numbers = Field((), description="the logits of each member are divided by its own; 1 if not given")
    temperature: float = Field(1.0, gt=0, description="of all members, after their own")


@dataclass(frozen=True)
class Member:
    """A graph in memory, what it takes and gives, and what it is called in messages."""

    name: str
    model: onnx.ModelProto
    signature: Signature


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

    from tlcompile import parity
    from tlcompile.optimize._views_mean import activation_of, aggregate, in_unit

    files = _files(model, options)
    signature = Signature.from_json(read_json(model.with_name("signature.json")))
    heat = options.temperatures or (1.0,) * len(files)
    answers = [parity.run_graph(file, list(feeds)) for file in files]
    found = []
    for outputs in zip(*answers, strict=True):
        logits = np.stack([output["logits"] / t for output, t in zip(outputs, heat, strict=True)])
        value = aggregate(logits, activation_of(signature), options.aggregation, options.weights, options.temperature)
        found.append({signature.answer: in_unit(value, signature)})
    return found


def _files(model: Path, options: Options) -> list[Path]:
    return [model, *(member.absolute for member in options.members)]  # type: ignore[attr-defined]


def _members(model: Path, options: Options) -> list[Member]:
    import onnx

    files = _files(model, options)
    names = options.names or tuple(str(i) for i in range(len(files)))
    if len(names) != len(files):
        raise RecipeError(Problem(f"{WHERE}.names", f"expected {len(files)} names, found {len(names)}"))
    signatures = [Signature.from_json(read_json(file.with_name("signature.json"))) for file in files]
    return [Member(n, onnx.load(f), s) for n, f, s in zip(names, files, signatures, strict=True)]


def fuse(members: Sequence[Member], options: Options) -> onnx.ModelProto:
    """One graph with the inputs and outputs of the first member. RecipeError: members or weights that don't fit."""
    from tlcompile.optimize import _views_mean as mean
    from tlcompile.optimize._views_cut import Writer, cut

    if found := _problems(members, options):
        raise RecipeError(*found)
    first = members[0]
    parts = [cut(member.model, WHERE) for member in members]
    activation = mean.activation_of(first.signature)
    if found := mean.problems(options.weights, options.aggregation, activation, len(members), parts[0].width, WHERE):
        raise RecipeError(*found)
    write = Writer(f"{WHERE}/")
    joined = _Joined(first.model)
    logits = [joined.add(part.before, part.network, part.model, f"member{i}/") for i, part in enumerate(parts)]
    heat = options.temperatures or (1.0,) * len(members)
    scaled = [mean.scaled(name, t, write) for name, t in zip(logits, heat, strict=True)]
    stacked = write("Reshape", write("Concat", *scaled, axis=0), write.whole(len(members), -1, parts[0].width))
    column = write.constant(mean.column(options, len(members)))
    value = mean.combine(stacked, column, activation, options, write)
    mean.answer(value, parts[0], activation, mean.averages_logits(options.aggregation, activation), write)
    return joined.model(write)


def _problems(members: Sequence[Member], options: Options) -> list[Problem]:
    """What keeps `members` from being one graph."""
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
    if any(t <= 0 for t in options.temperatures):
        found.append(Problem(f"{WHERE}.temperatures", "expected numbers above 0"))
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


class _Joined:
    """Nodes and constants of several graphs, with names of their own; equal nodes of the preprocessing once."""

    def __init__(self, first: onnx.ModelProto) -> None:
        self.first = first
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.known: dict[bytes, str] = {}  # what a node or a constant says, without its name -> tensor

    def add(
        self, before: Sequence[onnx.NodeProto], network: Sequence[onnx.NodeProto], model: onnx.ModelProto, prefix: str
    ) -> str:
        """Take the nodes of a member; the name of its logits."""
        from tlcompile.optimize._views_cut import copied, reads

        shared = {name for node in before for name in node.input}
        used = shared.union(*(reads(node) for node in network))
        names: dict[str, str] = {}
        for tensor in model.graph.initializer:
            if tensor.name in used:
                names[tensor.name] = self._constant(tensor, prefix)
        for node in before:
            self._once(node, names, prefix)
        copies = copied(network, prefix, names)
        self.nodes.extend(copies)
        return f"{prefix}logits"

    def _constant(self, tensor: onnx.TensorProto, prefix: str) -> str:
        copy = type(tensor)()
        copy.CopyFrom(tensor)
        copy.name = ""
        key = copy.SerializeToString(deterministic=True)
        if len(key) > 4096 or key not in self.known:  # weights of members are their own
            copy.name = prefix + tensor.name
            self.constants[copy.name] = copy
            self.known[key] = copy.name
        return self.known[key]

    def _once(self, node: onnx.NodeProto, names: dict[str, str], prefix: str) -> None:
        """Take a node of the preprocessing, unless there is one that computes the same."""
        from tlcompile.optimize._views_cut import copied

        inner = node.name.removeprefix("preprocess/")
        copy = copied([node], f"preprocess/{prefix}", names)[0]
        made = copy.output[0]
        copy.name, copy.output[0] = "", ""
        key = copy.SerializeToString(deterministic=True)
        if key not in self.known:
            copy.name, copy.output[0] = f"preprocess/{prefix}{inner}", made
            self.nodes.append(copy)
            self.known[key] = made
        names[node.output[0]] = self.known[key]

    def model(self, write: Any) -> onnx.ModelProto:
        made = type(self.first)()
        made.CopyFrom(self.first)
        graph = made.graph
        for field in ("node", "value_info", "initializer"):
            graph.ClearField(field)
        graph.node.extend([*self.nodes, *write.nodes])
        kept = {name for node in write.nodes for name in node.input} - set(self.constants)
        graph.initializer.extend([*self.constants.values(), *write.constants])
        graph.initializer.extend(i for i in self.first.graph.initializer if i.name in kept)
        return made
