"""A graph run over all examples piece by piece, so that what stands behind a piece may still be changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tlcompile.artifacts import Feed
from tlcompile.optimize._graph import Wiring
from tlcompile.optimize._observe import plain_session

if TYPE_CHECKING:
    import numpy as np
    import onnx


class Walk:
    """Of all feeds only the tensors are kept that nodes which have not run yet will read."""

    def __init__(self, model: onnx.ModelProto, feeds: Iterable[Feed]) -> None:
        self.model, self.wiring = model, Wiring(model.graph)
        self.waiting = {id(node) for node in model.graph.node}
        self.values: list[Feed] = [dict(feed) for feed in feeds]

    def to(self, name: str) -> list[np.ndarray]:
        """The tensor `name` of each feed. What it is made of must not be changed any more."""
        if name not in self.values[0]:
            self._advance(name)
        return [values[name] for values in self.values]

    def _advance(self, name: str) -> None:
        nodes = self._needed(name)
        self.waiting -= {id(node) for node in nodes}
        made = [out for node in nodes for out in node.output if out and (out == name or self._is_read(out))]
        session = plain_session(self._piece(nodes, made))
        read = [value.name for value in session.get_inputs()]
        for index, values in enumerate(self.values):
            values |= dict(zip(made, session.run(made, {n: values[n] for n in read}), strict=True))
            self.values[index] = {n: value for n, value in values.items() if n == name or self._is_read(n)}

    def _needed(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that have to run before `name` is there, in the graph's order."""
        found: set[int] = set()
        asked = [name]
        while asked:
            node = self.wiring.makers.get(one := asked.pop())
            if node is not None and id(node) not in found and one not in self.values[0]:
                found.add(id(node))
                asked += node.input
        return [node for node in self.model.graph.node if id(node) in found]

    def _is_read(self, name: str) -> bool:
        return any(id(node) in self.waiting for node in self.wiring.users[name])

    def _piece(self, nodes: list[onnx.NodeProto], made: list[str]) -> onnx.ModelProto:
        import onnx
        from onnx import helper

        names = {name for node in nodes for name in node.input}
        known = self.values[0]
        types = {name: helper.np_dtype_to_tensor_dtype(known[name].dtype) for name in names & known.keys()}
        piece = onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        piece.graph.name = "piece"
        piece.graph.node.extend(nodes)
        piece.graph.initializer.extend(self.wiring.constants[name] for name in names & self.wiring.constants.keys())
        piece.graph.input.extend(helper.make_tensor_value_info(n, kind, None) for n, kind in types.items())
        piece.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
        return piece
