"""A graph of any batch and size -> a program in front (`_program`) and a network of fixed shapes, for one example.

The cut is the first tensor that all of the answer passes through and whose shape depends on the batch alone: for
images what preprocessing makes, `pixels`. Texts have no such tensor before the answer; their token ids get a fixed
length instead, and shorter texts are padded on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile.artifacts import TextSpec
from tlcompile.compile._program import OPERATORS, Program
from tlcompile.errors import Problem, TlcompileError

if TYPE_CHECKING:
    import onnx

    from tlcompile.artifacts import Feed, Graph

WHERE = "preprocessing"


@dataclass(frozen=True)
class Parts:
    """`network` is a file: batch 1, every dimension a number. `fill`: what an input is padded with to its length."""

    before: Program
    network: Path
    fill: dict[str, int]


def cut(graph: Graph, tokens: int, folder: Path) -> Parts:
    """Write the network of `graph` to `folder`; texts get `tokens` tokens, 0 = the longest that the model takes."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(graph.model), data_prop=True)
    signature = graph.signature
    if isinstance(signature.spec, TextSpec):
        inputs, most = [tensor.name for tensor in signature.inputs], signature.spec.max_length
        if tokens > most:
            raise TlcompileError(Problem("tokens", f"found {tokens}, expected at most {most}, the model's longest"))
        shapes = {name: [1, tokens or most] for name in inputs}
        before = Program([], {}, inputs)
        fill = {name: signature.spec.pad_id if name == "input_ids" else 0 for name in inputs}
    else:
        name, size = _boundary(model, [tensor.name for tensor in signature.inputs])
        shapes, before, fill = {name: [1, *size]}, _program(model, name), {}
    return Parts(before, _fixed(model, shapes, folder), fill)


def _boundary(model: onnx.ModelProto, inputs: list[str]) -> tuple[str, list[int]]:
    """(name, sizes behind the batch) of the first tensor that parts the inputs from the outputs."""
    outputs = {value.name for value in model.graph.output}
    sizes = {v.name: _sizes(v) for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    for name in (*inputs, *(name for node in model.graph.node for name in node.output)):
        known = sizes.get(name)
        if known and name not in outputs and not outputs & _reached(model, inputs, name):
            return name, known
    what = "no tensor between its input and its answer has a fixed size for each image; this backend needs one"
    raise TlcompileError(Problem(WHERE, what))


def _sizes(value: onnx.ValueInfoProto) -> list[int] | None:
    """The sizes behind the first axis, None where one of them is not known."""
    dims = value.type.tensor_type.shape.dim
    sizes = [dim.dim_value for dim in dims][1:]
    return sizes if sizes and all(sizes) else None


def _reached(model: onnx.ModelProto, inputs: list[str], without: str) -> set[str]:
    """Tensors that depend on the inputs by a way that does not pass through `without`."""
    found = set(inputs) - {without}
    for node in model.graph.node:
        if found & set(node.input):
            found |= set(node.output) - {without}
    return found


def _program(model: onnx.ModelProto, target: str) -> Program:
    """The nodes that `target` is computed from; TlcompileError: one of them is none that numpy knows here."""
    wanted, nodes = {target}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    constants = _constants(model, wanted)
    program = [node for node in reversed(nodes) if node.op_type != "Constant"]
    if unknown := sorted({node.op_type for node in program} - set(OPERATORS)):
        raise TlcompileError(Problem(WHERE, f"numpy computes no {', '.join(unknown)} here"))
    return Program([_as_json(node) for node in program], constants, [target])


def _constants(model: onnx.ModelProto, wanted: set[str]) -> Feed:
    from onnx import numpy_helper

    made = [(node.output[0], node.attribute[0].t) for node in model.graph.node if node.op_type == "Constant"]
    kept = [(tensor.name, tensor) for tensor in model.graph.initializer]
    return {name: np.array(numpy_helper.to_array(tensor)) for name, tensor in (*kept, *made) if name in wanted}


def _as_json(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Cast":
        attributes = {"to": np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"])).name}
    return {"op": node.op_type, "inputs": list(node.input), "output": node.output[0], "with": attributes}


def _fixed(model: onnx.ModelProto, shapes: dict[str, list[int]], folder: Path) -> Path:
    """The nodes behind `shapes`, which become the inputs; what no longer depends on an input is computed now."""
    import onnx
    import onnxruntime as ort

    place, result = folder / "cut.onnx", folder / "network.onnx"
    outputs = [value.name for value in model.graph.output]
    part = onnx.utils.Extractor(model).extract_model(list(shapes), outputs)
    del part.graph.value_info[:]
    for value in (*part.graph.input, *part.graph.output):
        wanted = shapes.get(value.name)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_value = wanted[axis] if wanted else dim.dim_value or 1
    onnx.save(part, place)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(result)
    settings.log_severity_level = 3
    ort.InferenceSession(str(place), settings)
    place.unlink()
    return result
