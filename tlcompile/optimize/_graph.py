"""Who makes and who reads each tensor of an ONNX graph, and its constants as numpy arrays."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx

PRODUCTS = ("Conv", "MatMul", "Gemm")
PREPROCESSING = "preprocess/"
"""How the names of the nodes begin that turn raw pixels into the network's input."""


class Wiring:
    """A view of `graph`, made once; what it changes, it keeps track of."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {i.name: i for i in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in set(node.input):
                self.users[name].append(node)
        self.answers = {value.name for value in graph.output}

    def value(self, name: str) -> np.ndarray:
        """A constant's value."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name])

    def only_user(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads `name`, where nobody else does and it is no output of the graph."""
        users = self.users[name]
        return users[0] if len(users) == 1 and name not in self.answers else None

    def put(self, node: onnx.NodeProto, index: int, value: np.ndarray) -> None:
        """Make `value` the constant that `node` reads as its input `index`; other readers keep the old one."""
        from onnx import numpy_helper

        while len(node.input) <= index:
            node.input.append("")
        old, name = node.input[index], f"{node.name}/rewritten_{index}"
        if old != name:
            node.input[index] = name
            self.users[name] = [node]
        if old not in ("", name):
            self.users[old].remove(node)
        if old == name or (old and not self.users[old]):
            self.constants[name] = self.constants.pop(old)
        else:
            self.constants[name] = self.graph.initializer.add()
        self.constants[name].CopyFrom(numpy_helper.from_array(value, name))

    def read_instead(self, node: onnx.NodeProto, index: int, name: str) -> None:
        """Let `node` read `name` as its input `index`; a constant that nobody reads any more is dropped."""
        old = node.input[index]
        node.input[index] = name
        self.users[name].append(node)
        self.users[old].remove(node)
        if old in self.constants and not self.users[old]:
            self.graph.initializer.remove(self.constants.pop(old))

    def insert_before(self, first: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """Put a copy of `node` before `first`, which stands in the graph."""
        place = next(i for i, other in enumerate(self.graph.node) if other is first)
        self.graph.node.insert(place, node)
        made = self.graph.node[place]
        self.makers.update(dict.fromkeys(made.output, made))
        for name in set(made.input):
            self.users[name].append(made)


def has_weight(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """Whether `node` is a product of an activation with a constant."""
    product = node.op_type in PRODUCTS and not node.name.startswith(PREPROCESSING)
    return product and node.input[1] in wiring.constants and node.input[0] not in wiring.constants


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)
