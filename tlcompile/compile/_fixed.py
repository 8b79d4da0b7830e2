"""What backends for one fixed shape share: their options, the files in front of the network, and the runner.

The network takes one example. Batches are run example by example; images of any size pass `_program` first; shorter
texts are padded to the length that the network was built for, and longer ones are refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import read_json, write_json
from tlcompile.compile._options import EngineOptions
from tlcompile.errors import Problem, TlcompileError
from tlcompile.options import Field

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.artifacts import Feed, Graph

NETWORK = "network.json"


class FixedOptions(EngineOptions):
    tokens: int = Field(
        0, ge=0, description="tokens that the engine is built for, shorter texts are padded; 0 = the model's longest"
    )


def prepare(graph: Graph, options: FixedOptions, folder: Path, scratch: Path, int8: bool) -> Path:
    """Write what the runner needs to `folder`; the network, an ONNX file of fixed shapes, goes to `scratch`.

    TlcompileError: the graph is quantized and the backend, not `int8`, would not run it so.
    """
    import onnx

    from tlcompile.compile._cut import cut

    parts = cut(graph, options.tokens, scratch)
    parts.before.save(folder)
    network = onnx.load(parts.network).graph
    if not int8 and any(node.op_type == "QuantizeLinear" for node in network.node):
        raise TlcompileError(Problem("graph", "it is quantized, and engines of this backend are fp32; leave int8 out"))
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in network.input}
    outputs = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in network.output}
    write_json(folder / NETWORK, {"inputs": shapes, "fill": parts.fill, "outputs": outputs})
    return parts.network


class FixedRunner:
    """`call` takes the network's inputs in order, for one example, and gives its outputs in order.

    Where `alone`, calls of several threads wait for each other: the runtime keeps one set of buffers.
    """

    def __init__(self, folder: Path, call: Callable[[list[np.ndarray]], list[np.ndarray]], alone: bool = True) -> None:
        from contextlib import nullcontext

        from tlcompile.compile._program import Program

        written = read_json(folder / NETWORK)
        self.inputs: dict[str, list[int]] = written["inputs"]
        self.outputs: dict[str, list[int]] = written["outputs"]
        self.fill: dict[str, int] = written["fill"]
        self.before = Program.load(folder)
        self.call: Callable[[list[np.ndarray]], list[np.ndarray]] | None = call
        self.turn: Any = threading.Lock() if alone else nullcontext()

    def run(self, feed: Feed) -> Feed:
        from tlcompile.compile._feed import in_pieces

        return in_pieces(self._one, feed, [1] * len(next(iter(feed.values()))))

    def _one(self, feed: Feed) -> Feed:
        import numpy as np

        assert self.call is not None
        made = self.before.run(feed)
        inputs = [np.ascontiguousarray(self._padded(name, made[name])) for name in self.inputs]
        with self.turn:
            found = self.call(inputs)
        outputs = zip(self.outputs.items(), found, strict=True)
        return {name: np.array(value, np.float32).reshape(shape) for (name, shape), value in outputs}

    def _padded(self, name: str, value: np.ndarray) -> np.ndarray:
        import numpy as np

        if name not in self.fill:
            return value
        found, most = value.shape[1], self.inputs[name][1]
        if found > most:
            what = f"found {found} tokens, expected at most {most}, which this engine was built for (`tokens`)"
            raise TlcompileError(Problem(f"feed '{name}'", what))
        return np.pad(value, ((0, 0), (0, most - found)), constant_values=self.fill[name])

    def close(self) -> None:
        self.call = None
