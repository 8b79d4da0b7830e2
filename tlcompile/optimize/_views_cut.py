"""Where a graph of ours can be cut: preprocessing | network | answer, and how nodes are written or copied into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tlcompile.errors import Problem, TlcompileError

if TYPE_CHECKING:
    import numpy as np
    import onnx

PREPROCESS = "preprocess/"


@dataclass
class Parts:
    """The nodes of a graph, in order. `seam` is what the network reads of the preprocessing, or of the inputs."""

    model: onnx.ModelProto
    before: list[onnx.NodeProto]
    network: list[onnx.NodeProto]
    answer: list[onnx.NodeProto]
    seam: tuple[str, ...]

    @property
    def width(self) -> int:
        """K, the number of logits."""
        output = next(value for value in self.model.graph.output if value.name == "logits")
        return int(output.type.tensor_type.shape.dim[-1].dim_value)

    def pixels(self, where: str) -> str:
        """The one tensor that the preprocessing of images hands to the network; TlcompileError where it is not one."""
        fed = {value.name for value in self.model.graph.input}
        if len(self.seam) == 1 and not fed & set(self.seam):
            return self.seam[0]
        what = f"expected one tensor between preprocessing and network, found {', '.join(self.seam)}"
        raise TlcompileError(Problem(where, what))

    def joined(self, write: Writer) -> onnx.ModelProto:
        """The model of the preprocessing and the nodes of `write`; its inputs and outputs are as before."""
        model = type(self.model)()
        model.CopyFrom(self.model)
        graph = model.graph
        graph.ClearField("node")
        graph.ClearField("value_info")  # batches are others now
        graph.node.extend([*self.before, *write.nodes])
        graph.initializer.extend(write.constants)
        return model


def cut(model: onnx.ModelProto, where: str) -> Parts:
    """The three parts. The network is what `logits` need and the preprocessing does not make.

    TlcompileError where nothing makes `logits`.
    """
    graph = model.graph
    before = [node for node in graph.node if node.name.startswith(PREPROCESS)]
    rest = [node for node in graph.node if not node.name.startswith(PREPROCESS)]
    network = _needed(rest, ["logits"])
    of_network = {id(node) for node in network}
    answer = [n for n in _needed(rest, [value.name for value in graph.output]) if id(n) not in of_network]
    needed = {"logits"}.union(*(reads(node) for node in network))
    made = {name for node in before for name in node.output}
    fed = [value.name for value in graph.input]
    seam = tuple(name for name in (*fed, *sorted(made)) if name in needed)
    if not network or not seam:
        raise TlcompileError(Problem(where, "this graph can't be cut: no nodes of a network make its `logits`"))
    return Parts(model, before, network, answer, seam)


def _needed(nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of `nodes`, in their order, that the tensors `names` are made with."""
    maker = {name: node for node in nodes for name in node.output}
    ahead, reached = list(names), set[int]()
    while ahead:
        node = maker.get(ahead.pop())
        if node is not None and id(node) not in reached:
            reached.add(id(node))
            ahead += reads(node)
    return [node for node in nodes if id(node) in reached]


def reads(node: onnx.NodeProto) -> set[str]:
    """The tensors that `node` reads, those of its inner graphs included."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            made = {name for n in inner.node for name in n.output} | {i.name for i in inner.initializer}
            found |= {name for n in inner.node for name in reads(n)} - made
    return found


def copied(nodes: Iterable[onnx.NodeProto], prefix: str, given: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Copies of `nodes` that make tensors of their own, named with `prefix`; `given` says what they read instead."""
    import onnx

    names, copies = dict(given), []
    for node in nodes:
        names |= {name: names.get(name, prefix + name) for name in node.output if name}
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        renamed(copy, names)
        copy.name = prefix + node.name if node.name else ""  # two nodes of one name are refused
        copies.append(copy)
    return copies


def again(parts: Parts, inputs: Sequence[str], prefix: str, write: Writer) -> str:
    """The network once more, on `inputs` in the order of the seam, in nodes of its own; the name of its logits."""
    write.nodes.extend(copied(parts.network, prefix, dict(zip(parts.seam, inputs, strict=True))))
    return f"{prefix}logits"


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Tensors of `node`, and what its inner graphs read from outside, under their new names."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for child in inner.node:
                renamed(child, names)


@dataclass
class Writer:
    """Collects nodes and constants under `prefix`; every method returns the name of its result."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __call__(self, op: str, *inputs: str, called: str = "", **attributes: Any) -> str:
        """The result is called `called` where that is given."""
        from onnx import helper

        name = called or f"{self.prefix}{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def real(self, *values: float) -> str:
        """float32 scalar, or vector where there are several."""
        import numpy as np

        return self.constant(np.array(values[0] if len(values) == 1 else values, np.float32))

    def whole(self, *values: int) -> str:
        """int64 vector."""
        import numpy as np

        return self.constant(np.array(values, np.int64))
