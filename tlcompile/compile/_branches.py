"""A graph whose first voice may answer alone -> two graphs without branches: the first voice, and the others.

In the graph this is its only `If` (see `optimize/_early_exit.py`). Its first branch is what the first voice answers.
Its second ends in a `Where` that keeps the answers of examples that are sure, and continues from the first voice's
logits, the tensor FIRST_VOICE. So the first graph gives FIRST_VOICE beside its answer, and the second takes it beside
its inputs, and computes no voice again. A runtime of one fixed shape can't be fed a tensor that the network made: its
second graph takes the inputs alone, and computes all voices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import FIRST_VOICE, Signature, Tensor

if TYPE_CHECKING:
    import onnx

THEN, ELSE = "then_branch", "else_branch"


@dataclass(frozen=True)
class Part:
    model: onnx.ModelProto
    signature: Signature


def part(model: onnx.ModelProto, signature: Signature, continues: bool) -> tuple[Part, Part]:
    """The first voice and the others. `continues`: the others start from FIRST_VOICE, else from the inputs alone."""
    from onnx import TensorProto, helper

    first, rest = _without_branches(model, THEN), _without_branches(model, ELSE)
    width = signature.outputs[0].shape[-1]
    if not continues:
        return Part(_pruned(first), signature), Part(_pruned(rest), signature)
    value = helper.make_tensor_value_info(FIRST_VOICE, TensorProto.FLOAT, ["batch", width])
    first.graph.output.append(value)
    rest.graph.input.append(value)
    own = next(i for i, node in enumerate(rest.graph.node) if FIRST_VOICE in node.output)
    del rest.graph.node[own]
    tensor = Tensor(FIRST_VOICE, "float32", ("batch", width), "logits of the first voice")
    return (
        Part(_pruned(first), replace(signature, outputs=(*signature.outputs, tensor))),
        Part(_pruned(rest), replace(signature, inputs=(*signature.inputs, tensor))),
    )


def _without_branches(model: onnx.ModelProto, taken: str) -> onnx.ModelProto:
    """`model` with the nodes of the branch `taken` in the place of its `If`."""
    made = type(model)()
    made.CopyFrom(model)
    graph = made.graph
    at, fork = next((i, node) for i, node in enumerate(graph.node) if node.op_type == "If")
    branch = next(attribute.g for attribute in fork.attribute if attribute.name == taken)
    body, answer = list(branch.node), branch.output[0].name
    if taken == ELSE:
        chosen = next(node for node in body if answer in node.output)
        body.remove(chosen)
        answer = chosen.input[2]  # what is there where the first voice is not sure
    names = _twins(branch, graph)
    graph.initializer.extend(tensor for tensor in branch.initializer if tensor.name not in names)
    names[answer] = fork.output[0]
    for node in body:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    _replace(graph.node, [*graph.node[:at], *body, *graph.node[at + 1 :]])
    graph.ClearField("value_info")
    return made


def _twins(branch: onnx.GraphProto, graph: onnx.GraphProto) -> dict[str, str]:
    """Weights that the branch has a copy of -> the same of the graph around it."""
    known = {_content(tensor): tensor.name for tensor in graph.initializer}
    return {t.name: known[content] for t in branch.initializer if (content := _content(t)) in known}


def _content(tensor: onnx.TensorProto) -> bytes:
    """A digest of all but the name."""
    import hashlib

    copy = type(tensor)()
    copy.CopyFrom(tensor)
    copy.name = ""
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the nodes and weights that none of its outputs needs."""
    import onnx

    graph = model.graph
    needed, nodes = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    _replace(graph.node, reversed(nodes))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    onnx.checker.check_model(model, full_check=True)
    return model


def _replace(field: Any, items: Iterable[Any]) -> None:
    """What a repeated field holds; some of it may be among `items`, so these are copied before it is cleared."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
