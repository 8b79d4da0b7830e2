"""The export stage: preprocessing, network and the answer's activation in one ONNX file, checked against torch.

A task of classes answers with `probabilities`: the softmax or the sigmoid of the logits. A number is learnt in standard
deviations from its mean; `values` are its logits in its own unit.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile import registry
from tlcompile.artifacts import Checkpoint, Feed, ImageSpec, Signature, Splits, Target, Tensor, write_json
from tlcompile.data._split import Split
from tlcompile.errors import ParityError, Problem, TlcompileError
from tlcompile.export import golden, preprocess
from tlcompile.export.network import to_onnx
from tlcompile.models import _restore
from tlcompile.models._network import Network
from tlcompile.recipe.tables import ExportTable, Plugin
from tlcompile.runtime import golden as golden_file
from tlcompile.runtime.feeds import Example, feeder

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import onnx

MEANINGS = {
    "softmax": {"logits": "before softmax", "probabilities": "sum to 1"},
    "sigmoid": {"logits": "before sigmoid", "probabilities": "of each class by itself"},
    "identity": {"logits": "standard deviations from the target's mean"},
}


EXPORTERS = ("torchscript", "dynamo")


def write(checkpoint: Checkpoint, splits: Splits, model: Plugin, table: ExportTable, folder: Path) -> None:
    """Export with the recipe's exporter, or with the other where that one fails; `exporter.json` says which and why."""
    network = restore(checkpoint, model)
    problems: list[Problem] = []
    for exporter in (table.exporter, *(other for other in EXPORTERS if other != table.exporter)):
        try:
            _write_with(exporter, network, checkpoint, splits, table.opset, folder)
        except TlcompileError as error:  # it gave up, or its graph does not answer like torch
            problems += [Problem(p.where, f"{exporter}: {p.what}") for p in error.problems]
            continue
        write_json(folder / "exporter.json", {"exporter": exporter, "refused": [str(p) for p in problems]})
        return
    raise ParityError(*problems)


def _write_with(
    exporter: str, network: Network, checkpoint: Checkpoint, splits: Splits, opset: int, folder: Path
) -> None:
    task = registry.load("tasks", checkpoint.network["task"])
    core = to_onnx(network, exporter, opset, folder / "model.onnx")
    onnx_model = assemble(core, network, opset, task.ACTIVATION, splits.target)
    save(onnx_model, folder / "model.onnx")
    signature = signature_of(onnx_model, network, checkpoint, task, splits.target)
    write_json(folder / "signature.json", signature.to_json())
    if (tokenizer := checkpoint.folder / "tokenizer.json").exists():
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    split = Split(splits.folder, "val")
    chosen = golden.of_split(split, signature.labels)
    feeds, order = golden.feeds(chosen, feeder(signature, folder))
    examples = [chosen[i] for i in order]
    expected = torch_outputs(network, examples, feeds, task.ACTIVATION, splits.target)
    rung = golden.against_torch(network, folder / "model.onnx", examples, feeds, expected, signature)
    golden_file.save(folder / "golden.npz", feeds, expected)
    write_json(folder / "parity.json", [rung.to_json()])


def restore(checkpoint: Checkpoint, model: Plugin) -> Network:
    """The trained network in eval mode, from the checkpoint's own tensors."""
    return _restore.restore(checkpoint.folder, model.module, model.options)


def assemble(
    core: onnx.ModelProto, network: Network, opset: int, activation: str = "softmax", target: Target | None = None
) -> onnx.ModelProto:
    """Preprocessing (images) -> network -> `logits` and the answer: `probabilities`, or `values` of `target`."""
    import onnx
    from onnx import compose

    core.ir_version = 10
    if isinstance(network.spec, ImageSpec):
        before = preprocess.graph(network.spec, opset)
        core = compose.merge_models(before, core, io_map=[("pixels", "pixels")])
        del core.opset_import[1:]  # merge_models lists the one domain once for each of the two
    _answer(core.graph, activation, target)
    core.producer_name = "tlcompile"
    onnx.checker.check_model(core)
    return core


def _answer(graph: onnx.GraphProto, activation: str, target: Target | None) -> None:
    """Append the nodes and the output that answer. Mul and Sub, because a pass would quantize an Add."""
    from onnx import TensorProto, helper, numpy_helper

    name = "values" if activation == "identity" else "probabilities"
    if activation == "identity":
        assert target is not None
        for constant, value in (("target_std", target.std), ("target_minus_mean", -target.mean)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), constant))
        graph.node.append(helper.make_node("Mul", ["logits", "target_std"], ["from_mean"], name="from_mean"))
        graph.node.append(helper.make_node("Sub", ["from_mean", "target_minus_mean"], [name], name=name))
    elif activation == "sigmoid":
        graph.node.append(helper.make_node("Sigmoid", ["logits"], [name], name=name))
    else:
        graph.node.append(helper.make_node("Softmax", ["logits"], [name], name=name, axis=-1))
    width = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))


def save(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    onnx.save(model, path)


def signature_of(
    model: onnx.ModelProto, network: Network, checkpoint: Checkpoint, task: ModuleType, target: Target | None = None
) -> Signature:
    """The signature as the graph itself declares it."""
    from onnx import helper

    meaning = {"image": "NHWC RGB 0..255, any size", **MEANINGS[task.ACTIVATION]}
    if target:
        meaning["values"] = f"'{target.name}' in its own unit"

    def tensor(value: Any) -> Tensor:
        kind = value.type.tensor_type
        shape = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        return Tensor(value.name, dtype, shape, meaning.get(value.name, ""))

    return Signature(
        checkpoint.network["task"],
        tuple(tensor(v) for v in model.graph.input),
        tuple(tensor(v) for v in model.graph.output),
        tuple(checkpoint.network["classes"]),
        network.spec,
        task.LABELS,
        target,
    )


def torch_outputs(
    network: Network,
    examples: list[Example],
    feeds: list[Feed],
    activation: str = "softmax",
    target: Target | None = None,
) -> list[Feed]:
    """What torch answers, grouped like `feeds`; images go through the training library's own preprocessing."""
    import torch

    from tlcompile.models._inputs import Collate, evaluation_view

    outputs, start = [], 0
    for feed in feeds:
        count = len(next(iter(feed.values())))
        part = examples[start : start + count]
        start += count
        with torch.inference_mode():
            if isinstance(network.spec, ImageSpec):
                from PIL import Image

                view = evaluation_view(network.spec)
                inputs, _ = Collate(network)([(view(Image.fromarray(np.asarray(e))), 0) for e in part])
            else:
                inputs = {name: torch.from_numpy(array) for name, array in feed.items()}
            logits = network.module(*inputs.values())
        if target:
            answer = {"values": (logits.double() * target.std + target.mean).float().numpy()}
        else:
            answer = {"probabilities": (logits.sigmoid() if activation == "sigmoid" else logits.softmax(-1)).numpy()}
        outputs.append({"logits": logits.numpy(), **answer})
    return outputs
