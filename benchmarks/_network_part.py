"""The network without its preprocessing: `pixels` -> `logits`, cut out of a graph that takes raw images.

Tools that quantize an ONNX file would quantize the resize and the normalisation too. So that all are asked for the same
work, the fp32 network alone is what they get, and the network alone is what is timed of every artifact.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx.utils import Extractor

from tlcompile import compile as backends
from tlcompile.artifacts import Graph, ImageSpec, Signature, Tensor, read_json, write_json
from tlcompile.export.preprocess import PREFIX

if TYPE_CHECKING:
    from tlcompile.recipe.tables import Target

PIXELS = "pixels"


def boundary(graph: onnx.GraphProto) -> str:
    """The one tensor that the preprocessing hands to the network; ValueError where passes have mixed the two."""
    made = {name for node in graph.node if node.name.startswith(PREFIX) for name in node.output}
    read = {name for node in graph.node if not node.name.startswith(PREFIX) for name in node.input}
    crossing = sorted(made & read)
    if crossing != [PIXELS]:
        raise ValueError(f"preprocessing and network meet at {crossing}, expected at '{PIXELS}' alone")
    return PIXELS


def split(graph: Graph, before: Path, after: Path) -> None:
    """Write the preprocessing alone to the ONNX file `before`, and the network alone as a Graph into folder `after`.

    The network takes `pixels` float32 [batch, 3, S, S] and answers with `logits` float32 [batch, K].
    """
    spec = graph.signature.spec
    assert isinstance(spec, ImageSpec)
    model = onnx.load(graph.model)
    boundary(model.graph)
    shape = ("batch", 3, spec.image_size, spec.image_size)
    pixels = onnx.helper.make_tensor_value_info(PIXELS, onnx.TensorProto.FLOAT, shape)
    others = [value for value in model.graph.value_info if value.name != PIXELS]
    del model.graph.value_info[:]
    model.graph.value_info.extend([*others, pixels])
    extractor = Extractor(model)
    onnx.save(extractor.extract_model(["image"], [PIXELS]), before)
    after.mkdir(parents=True)
    onnx.save(extractor.extract_model([PIXELS], ["logits"]), after / "model.onnx")
    signature = dataclasses.replace(
        graph.signature,
        inputs=(Tensor(PIXELS, "float32", shape, "NCHW, normalised"),),
        outputs=tuple(t for t in graph.signature.outputs if t.name == "logits"),
    )
    write_json(after / "signature.json", signature.to_json())


def engine(model: Path, signature: Path, target: Target, variant: str, folder: Path) -> Path:
    """An engine folder for `target` of an ONNX file or an OpenVINO IR (`.xml`) with the tensors of `signature`."""
    graph = Graph(folder.with_name(f"{folder.name}-graph"), "")
    graph.folder.mkdir(parents=True)
    shutil.copyfile(signature, graph.folder / "signature.json")
    folder.mkdir(parents=True)
    if model.suffix == ".onnx":
        shutil.copyfile(model, graph.model)
        backends.build(target.backend.name, target.backend.options, graph, variant, folder)
        return folder
    for part in (model, model.with_suffix(".bin")):  # an IR is what OpenVINO's engine folder holds already
        shutil.copyfile(part, folder / f"model{part.suffix}")
    options = target.backend.options.model_dump(mode="json")
    write_json(folder / "engine.json", {"backend": target.backend.name, "options": options, "variant": variant})
    shutil.copyfile(signature, folder / "signature.json")
    return folder


def size_of(folder: Path) -> int:
    """Pixels a side of the network in `folder`."""
    spec = Signature.from_json(read_json(folder / "signature.json")).spec
    assert isinstance(spec, ImageSpec)
    return spec.image_size
