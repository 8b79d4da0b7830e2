"""The export stage: network + preprocessing + softmax in one ONNX file, checked against torch on real examples."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile import parity
from tlcompile.artifacts import Checkpoint, Feed, ImageSpec, Signature, Splits, Tensor, write_json
from tlcompile.data._split import Split
from tlcompile.export import golden, preprocess
from tlcompile.export.network import to_onnx
from tlcompile.models._network import Network
from tlcompile.recipe.tables import ExportTable, Plugin
from tlcompile.runtime import golden as golden_file
from tlcompile.runtime.feeds import Example, feeder

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

TOLERANCE = parity.Tolerance(max_abs=2e-2, agreement=1.0)
"""Pixels differ from Pillow's by at most one level of rounding; a network amplifies that to well under 0.02."""


def write(checkpoint: Checkpoint, splits: Splits, model: Plugin, table: ExportTable, folder: Path) -> None:
    network = restore(checkpoint, model)
    onnx_model = assemble(to_onnx(network, table.exporter, table.opset, folder / "model.onnx"), network, table.opset)
    save(onnx_model, folder / "model.onnx")
    signature = signature_of(onnx_model, network, checkpoint)
    write_json(folder / "signature.json", signature.to_json())
    if (tokenizer := checkpoint.folder / "tokenizer.json").exists():
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    split = Split(splits.folder, "val")
    chosen = golden.examples(split, golden.choose(np.asarray(split.labels)))
    feeds, order = golden.feeds(chosen, feeder(signature, folder))
    expected = torch_outputs(network, [chosen[i] for i in order], feeds)
    found = parity.run_graph(folder / "model.onnx", feeds)
    rung = parity.check(parity.compare("export", "torch", found, expected, TOLERANCE))
    golden_file.save(folder / "golden.npz", feeds, expected)
    write_json(folder / "parity.json", [rung.to_json()])


def restore(checkpoint: Checkpoint, model: Plugin) -> Network:
    """The trained network in eval mode, from the checkpoint's own tensors."""
    from safetensors.torch import load_file

    network: Network = model.module.build(model.options, len(checkpoint.network["classes"]), pretrained=False)
    network.module.load_state_dict(load_file(checkpoint.folder / "model.safetensors"))
    network.module.eval()
    return network


def assemble(core: onnx.ModelProto, network: Network, opset: int) -> onnx.ModelProto:
    """Preprocessing (images) -> network -> `logits` and `probabilities`."""
    import onnx
    from onnx import TensorProto, compose, helper

    core.ir_version = 10
    if isinstance(network.spec, ImageSpec):
        before = preprocess.graph(network.spec, opset)
        core = compose.merge_models(before, core, io_map=[("pixels", "pixels")])
        del core.opset_import[1:]  # merge_models lists the one domain once for each of the two
    logits = core.graph.output[0]
    classes = logits.type.tensor_type.shape.dim[1].dim_value
    core.graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], name="probabilities", axis=-1))
    core.graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]))
    core.producer_name = "tlcompile"
    onnx.checker.check_model(core)
    return core


def save(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    onnx.save(model, path)


def signature_of(model: onnx.ModelProto, network: Network, checkpoint: Checkpoint) -> Signature:
    """The signature as the graph itself declares it."""
    from onnx import helper

    def tensor(value: Any) -> Tensor:
        kind = value.type.tensor_type
        shape = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
        meaning = {"image": "NHWC RGB 0..255, any size", "logits": "before softmax", "probabilities": "sum to 1"}
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        return Tensor(value.name, dtype, shape, meaning.get(value.name, ""))

    return Signature(
        checkpoint.network["task"],
        tuple(tensor(v) for v in model.graph.input),
        tuple(tensor(v) for v in model.graph.output),
        tuple(checkpoint.network["classes"]),
        network.spec,
    )


def torch_outputs(network: Network, examples: list[Example], feeds: list[Feed]) -> list[Feed]:
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
        outputs.append({"logits": logits.numpy(), "probabilities": logits.softmax(-1).numpy()})
    return outputs
