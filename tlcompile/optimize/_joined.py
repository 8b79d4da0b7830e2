"""The nodes and constants of several graphs in one, with names of their own; what is equal is there once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlcompile.optimize._views_cut import PREPROCESS, copied, reads

if TYPE_CHECKING:
    import onnx

    from tlcompile.optimize._views_cut import Parts, Writer


SMALL = 4096
"""Bytes of constants that are compared; weights of members are their own."""


class Joined:
    """Collects the constants of one graph after the other; their nodes go where `add` is told to put them."""

    def __init__(self, first: onnx.ModelProto) -> None:
        self.first = first
        self.constants: dict[str, onnx.TensorProto] = {}
        self.known: dict[bytes, str] = {}  # what a node or a constant says, without its name -> tensor

    def add(self, parts: Parts, prefix: str, nodes: list[onnx.NodeProto]) -> str:
        """Append the nodes of a member to `nodes`; the name of its logits."""
        shared = {name for node in parts.before for name in node.input}
        used = shared.union(*(reads(node) for node in parts.network))
        names: dict[str, str] = {}
        for tensor in parts.model.graph.initializer:
            if tensor.name in used:
                names[tensor.name] = self._constant(tensor, prefix)
        for node in parts.before:
            self._once(node, names, prefix, nodes)
        nodes.extend(copied(parts.network, prefix, names))
        return f"{prefix}logits"

    def _constant(self, tensor: onnx.TensorProto, prefix: str) -> str:
        copy = type(tensor)()
        copy.CopyFrom(tensor)
        copy.name = ""
        key = copy.SerializeToString(deterministic=True) if copy.ByteSize() <= SMALL else b""
        if key in self.known:
            return self.known[key]
        copy.name = prefix + tensor.name
        self.constants[copy.name] = copy
        if key:
            self.known[key] = copy.name
        return copy.name

    def _once(self, node: onnx.NodeProto, names: dict[str, str], prefix: str, nodes: list[onnx.NodeProto]) -> None:
        """Take a node of the preprocessing, unless there is one that computes the same."""
        inner = node.name.removeprefix(PREPROCESS)
        copy = copied([node], f"{PREPROCESS}{prefix}", names)[0]
        made = copy.output[0]
        copy.name, copy.output[0] = "", ""
        key = copy.SerializeToString(deterministic=True)
        if key not in self.known:
            copy.name, copy.output[0] = f"{PREPROCESS}{prefix}{inner}", made
            nodes.append(copy)
            self.known[key] = made
        names[node.output[0]] = self.known[key]

    def model(self, write: Writer) -> onnx.ModelProto:
        """The nodes of `write` between the inputs and outputs of the first graph, with the constants that they read."""
        made = type(self.first)()
        made.CopyFrom(self.first)
        graph = made.graph
        for field in ("node", "value_info", "initializer"):
            graph.ClearField(field)
        graph.node.extend(write.nodes)
        read = {name for node in write.nodes for name in reads(node)}
        graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in read)
        graph.initializer.extend(write.constants)
        rest = read - set(self.constants)
        graph.initializer.extend(i for i in self.first.graph.initializer if i.name in rest)
        return made
