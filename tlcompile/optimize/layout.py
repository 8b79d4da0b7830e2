"""Fewer Transposes: ONNX Runtime's transpose optimizer, by itself, with its result kept as a graph for every backend.

It merges Transposes that follow each other, drops inverse pairs, and moves a Transpose towards the answer through
element-wise nodes, reductions, Concat, Split, Pad and others where it meets another one there and is lost. What then
moves only axes of length 1 becomes a Reshape. The picture stays cast to fp32 before it is transposed: TensorRT
transposes no uint8. A graph with no fewer Transposes afterwards is left as it was, byte for byte.

Not on by default: the CPU backends and TensorRT do the like when they load a graph. For mobile backends, which do not.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.optimize import Context
from tlcompile.optimize._told import told
from tlcompile.options import Options as Base
from tlcompile.parity import REWRITTEN, Tolerance

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
WHERE = "optimize.layout"
OTHERS = (
    "CastChainElimination", "CommonSubexpressionElimination", "ConstantFolding", "ConstantSharing",
    "DoubleQDQPairsRemover", "EnsureUniqueDQForNodeUnit", "FreeDimensionOverrideTransformer", "GeluFusionL1",
    "LayerNormFusionL1", "Level1_RuleBasedTransformer", "MatMulAddFusion", "MatmulTransposeFusion",
    "PreShapeNodeElimination", "QDQPropagationTransformer", "ReshapeFusion", "WhereDummyDq",
)  # fmt: skip
"""What else ONNX Runtime does at its basic level."""


class Options(Base):
    """No choices."""


def variant(options: Options) -> str:
    return ""


def tolerance(options: Options) -> Tolerance:
    """Sums may run in another order."""
    return REWRITTEN


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx

    with told(WHERE, "rewritten"):
        before = onnx.load(model)
        after = _optimized(model, target)
        del after.opset_import[:]
        after.opset_import.extend(before.opset_import)  # without ONNX Runtime's own domains
        after.ir_version = before.ir_version
        _reshape(after)
        onnx.checker.check_model(after, full_check=True)
        if transposes(after) < transposes(before):
            onnx.save(after, target)
        else:
            shutil.copyfile(model, target)


def transposes(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph.node)


def _optimized(model: Path, target: Path) -> onnx.ModelProto:
    import onnx
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(target)
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    ort.InferenceSession(str(model), settings, ["CPUExecutionProvider"], disabled_optimizers=set(OTHERS))
    return onnx.load(target)


def _reshape(model: onnx.ModelProto) -> None:
    """Make every Transpose that moves axes of length 1 only a Reshape, where at most one length is unknown."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    for node in model.graph.node:
        sizes = dims.get(node.input[0], []) if node.op_type == "Transpose" else []
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
        if not sizes or len(order) != len(sizes) or sizes.count(0) > 1:
            continue
        long = [axis for axis in order if sizes[axis] != 1]
        if long == sorted(long):
            shape = numpy_helper.from_array(np.array([sizes[a] or -1 for a in order]), f"{node.output[0]}/shape")
            model.graph.initializer.append(shape)
            node.op_type = "Reshape"
            node.input.append(shape.name)
            del node.attribute[:]
