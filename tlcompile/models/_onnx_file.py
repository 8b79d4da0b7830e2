"""An ONNX file of others -> the part of its graph before the last linear layer, ready to be turned into torch.

Every mistake of the file is told in a sentence. Tensors kept in other files are read from the file's own folder only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.errors import Problem, RecipeError, first_line, one_of

if TYPE_CHECKING:
    import onnx

KEY = "model.path"
BEHIND = ("Softmax", "LogSoftmax", "Sigmoid", "Identity", "Flatten", "Reshape", "Squeeze", "Cast", "Dropout")
"""Operators that may stand between the last linear layer and the output."""
OLD, NEW = 13, 17
"""Opsets between which onnx2torch knows the operators best; a graph of another is converted where that is needed."""


@dataclass(frozen=True)
class Body:
    """`model`: one input float32 [N, 3, S, S], one output float32 [N, `features`]."""

    model: onnx.ModelProto
    features: int
    image_size: int


def body(path: Path, image_size: int) -> Body:
    """The body of the file, or of the one file in the folder, at `path`; `image_size` 0 = as the file says."""
    model = read(path)
    graph = model.graph
    _name_constants(graph)
    constants = {i.name for i in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    size = _size(inputs, image_size)
    output, width = _before_last_layer(graph)
    _prune(graph, inputs[0], output, size)
    _any_batch(model)
    return Body(_known(model), width, size)


def read(path: Path) -> onnx.ModelProto:
    """The whole model with its tensors."""
    import onnx
    from google.protobuf.message import DecodeError

    file = _file(path)
    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise RecipeError(Problem(KEY, f"'{file.name}' is not an ONNX file")) from error
    if not model.graph.node or not model.graph.output:
        raise RecipeError(Problem(KEY, f"'{file.name}' is not an ONNX file: it holds no graph"))
    _check_external(model, file, path)
    try:
        onnx.load_external_data_for_model(model, str(file.parent))
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)[:300]
        raise RecipeError(Problem(KEY, f"'{file.name}' is no valid ONNX model: {reason}")) from error
    return model


def _file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.onnx"))
        if len(found) != 1:
            raise RecipeError(Problem(KEY, f"expected one .onnx file in the folder '{path.name}', found {len(found)}"))
        return found[0]
    if not path.is_file():
        raise RecipeError(Problem(KEY, f"no such file '{path.name}'"))
    return path


def _check_external(model: onnx.ModelProto, file: Path, path: Path) -> None:
    """Tensors outside the file must lie in its folder, and then the recipe must name the folder, so that they count."""
    places = sorted(set(_external(model)))
    folder = file.parent.resolve()
    problems = []
    for place in places:
        target = (folder / place).resolve()
        if not target.is_relative_to(folder):
            problems.append(Problem(KEY, f"'{file.name}' keeps tensors outside its folder, in '{place}'"))
        elif not target.is_file():
            problems.append(Problem(KEY, f"'{file.name}' keeps tensors in '{place}', which is not there"))
    if not problems and places and not path.is_dir():
        what = f"'{file.name}' keeps tensors in {one_of(places[:3])}: name its folder instead, so that they count too"
        problems.append(Problem(KEY, what))
    if problems:
        raise RecipeError(*problems)


def _external(model: onnx.ModelProto) -> Iterator[str]:
    """Where the tensors are that the file does not hold itself."""
    import onnx

    held = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))]
    for tensor in held:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _name_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, and copies of initializers (Identity) their originals."""
    originals: dict[str, str] = {}
    known = {i.name for i in graph.initializer}
    kept = []
    for node in graph.node:
        node.input[:] = [originals.get(name, name) for name in node.input]
        values = [a.t for a in node.attribute if a.name == "value"] if node.op_type == "Constant" else []
        if values:
            graph.initializer.add().CopyFrom(values[0])
            graph.initializer[-1].name = node.output[0]
            known.add(node.output[0])
        elif node.op_type == "Identity" and node.input[0] in known:
            originals[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _size(inputs: list[onnx.ValueInfoProto], asked: int) -> int:
    """Side of the input in pixels; RecipeError where it is no NCHW image or where file and recipe disagree."""
    import onnx

    if len(inputs) != 1:
        raise RecipeError(Problem(KEY, f"expected one input, found {one_of([i.name for i in inputs]) or 'none'}"))
    kind = inputs[0].type.tensor_type
    shape: list[Any] = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
    spelt = f"'{inputs[0].name}' is {onnx.TensorProto.DataType.Name(kind.elem_type).lower()} {shape}"
    colors = len(shape) == 4 and (shape[1] == 3 or isinstance(shape[1], str))
    if kind.elem_type != onnx.TensorProto.FLOAT or not colors:
        raise RecipeError(Problem(KEY, f"expected an input float [N, 3, height, width]; {spelt}"))
    sides = {side for side in shape[2:] if isinstance(side, int)}
    if len(sides) > 1 or (asked and sides and sides != {asked}):
        raise RecipeError(Problem("model.image_size", f"expected {asked or 'a square'}; {spelt}"))
    if not sides and not asked:
        raise RecipeError(Problem("model.image_size", f"the file fixes no size, so the recipe must: {spelt}"))
    return asked or int(sides.pop())


def _before_last_layer(graph: onnx.GraphProto) -> tuple[str, int]:
    """(tensor that the last linear layer is fed, its width)."""
    makers = {output: node for node in graph.node for output in node.output}
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    seen = []
    for value in graph.output:
        name = value.name
        while node := makers.get(name):
            if node.op_type == "Gemm" and len(shapes.get(node.input[1], ())) == 2:
                turned = any(a.name == "transB" and a.i for a in node.attribute)
                return node.input[0], shapes[node.input[1]][1 if turned else 0]
            if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2:
                return node.input[0], shapes[node.input[1]][0]
            variable = [i for i in node.input if i not in shapes]
            if node.op_type == "Add" and len(variable) == 1 and makers[variable[0]].op_type == "MatMul":
                name = variable[0]
            elif node.op_type in BEHIND:
                name = node.input[0]
            else:
                seen.append(f"'{value.name}' comes from {node.op_type}")
                break
    raise RecipeError(Problem(KEY, f"the graph has no final linear layer (Gemm or MatMul): {', '.join(seen)}"))


def _prune(graph: onnx.GraphProto, pixels: onnx.ValueInfoProto, output: str, size: int) -> None:
    """Leave what `output` needs; the input becomes [batch, 3, size, size]."""
    from onnx import TensorProto, helper

    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    nodes, constants = kept[::-1], [i for i in graph.initializer if i.name in needed]
    for field in ("node", "initializer", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.append(helper.make_tensor_value_info(pixels.name, TensorProto.FLOAT, ["batch", 3, size, size]))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))


def _any_batch(model: onnx.ModelProto) -> None:
    """Reshapes to a constant shape that begins with a batch of 1 take the batch of their input instead: 0 copies it.

    Not where `allowzero` says that a 0 is a 0; that word is left out where no 0 can be meant.
    """
    import numpy as np
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Reshape":
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]) if node.input[1] in constants else np.ones(())
        if 0 not in shape:
            del node.attribute[:]
        if shape.ndim == 1 and len(shape) > 1 and shape[0] == 1:
            renamed = f"{node.input[1]}/any_batch/{node.output[0]}"
            value = np.concatenate([[0], shape[1:]]).astype(np.int64)
            model.graph.initializer.append(numpy_helper.from_array(value, renamed))
            node.input[1] = renamed


def _known(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, in another opset where only that one is known to onnx2torch; RecipeError names unknown operators."""
    import onnx

    unknown = _unknown(model)
    if not unknown:
        return model
    main = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    try:
        other = onnx.version_converter.convert_version(model, NEW if main > NEW else OLD)
        for node in other.graph.node:  # a word of opset 18 that the converter leaves in place
            kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
        if not _unknown(other):
            return other
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError):
        pass  # the error below names what is missing
    what = f"onnx2torch knows no {one_of(unknown)} of opset {main}, which this graph uses"
    raise RecipeError(Problem(KEY, what))


def _unknown(model: onnx.ModelProto) -> list[str]:
    from onnx2torch.node_converters import get_converter

    versions = {o.domain: o.version for o in model.opset_import}
    missing = set()
    for node in model.graph.node:
        try:
            get_converter(node.op_type, versions.get(node.domain, 0), node.domain)
        except NotImplementedError:
            missing.add(f"{node.domain}:{node.op_type}" if node.domain else node.op_type)
    return sorted(missing)
