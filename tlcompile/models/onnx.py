"""Any ONNX file that classifies images as a starting point: its body becomes torch modules, its last layer is new.

The part of the graph before the last linear layer is turned into torch by onnx2torch and held against ONNX Runtime.
Names of modules are those of the file's nodes, so the same file always gives the same state_dict.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Strict

from tlcompile.artifacts import ImageSpec
from tlcompile.errors import ParityError, Problem, RecipeError, first_line
from tlcompile.models import _fits, _onnx_file
from tlcompile.models._network import Network
from tlcompile.options import Field, RecipePath
from tlcompile.options import Options as Base

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

PACKAGES = ("onnx2torch", "onnx", "onnxruntime", "torch")
KINDS = ("image",)
Colors = Annotated[tuple[float, float, float], Strict(False)]


class Options(Base):
    path: RecipePath = Field(description="a .onnx file, or a folder with one and the tensors that it keeps beside it")
    image_size: int = Field(0, ge=0, description="pixels; 0 = as the file says")
    crop_pct: float = Field(0.875, gt=0, le=1, description="share of the image kept by the centre crop")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Colors = Field((0.485, 0.456, 0.406), description="of red, green and blue in 0..1, subtracted")
    std: Colors = Field((0.229, 0.224, 0.225), description="what is divided by then; 1/255 where the file wants 0..255")
    channels: Literal["RGB", "BGR"] = Field("RGB", description="the order that the file wants")


def check(options: Options) -> list[Problem]:
    """What is wrong with the file as far as its graph tells."""
    try:
        _onnx_file.body(options.path.absolute, options.image_size)  # type: ignore[attr-defined]
    except RecipeError as error:
        return list(error.problems)
    return []


def build(options: Options, classes: int, pretrained: bool = True) -> Network:
    """The file's body with a new head. With `pretrained` its features are first held against ONNX Runtime."""
    body = _onnx_file.body(options.path.absolute, options.image_size)  # type: ignore[attr-defined]
    features = _to_torch(body.model)
    if pretrained:
        _same_features(features, body)
    module = _classifier(features, body.features, classes, options.channels == "BGR")
    _fits.check_size(module, body.image_size, batch=2)
    spec = ImageSpec(body.image_size, options.crop_pct, options.interpolation, options.mean, options.std)
    return Network(module, spec, ("head",))


def _to_torch(model: onnx.ModelProto) -> nn.Module:
    """onnx2torch's module, with the weights that it keeps as constants made trainable."""
    from onnx2torch import convert
    from torch import nn

    _tell_opset()
    try:
        module: nn.Module = convert(model)
    except (NotImplementedError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = first_line(error)[:200]
        raise RecipeError(Problem("model.path", f"this graph can't be turned into torch: {reason}")) from error
    constants = getattr(module, "initializers", nn.Module())
    for name, value in list(constants.named_buffers()):
        if value.is_floating_point() and value.numel() > 1:
            delattr(constants, name)
            constants.register_parameter(name, nn.Parameter(value))
    return module


def _tell_opset() -> None:
    """Where onnx2torch 1.5 looks for the opset of a running export, which torch has moved since."""
    import importlib

    from torch.onnx import symbolic_helper

    if not hasattr(symbolic_helper, "GLOBALS"):
        settings: Any = importlib.import_module("torch.onnx._internal.torchscript_exporter._globals")
        setattr(symbolic_helper, "GLOBALS", settings.GLOBALS)  # noqa: B010 - mypy knows no such name


def _same_features(features: nn.Module, body: _onnx_file.Body) -> None:
    """ParityError where torch and ONNX Runtime disagree about one random image."""
    import tempfile

    import onnx
    import torch

    from tlcompile.parity import run_graph

    pixels = torch.randn(1, 3, body.image_size, body.image_size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body.onnx"
        onnx.save(body.model, path)
        feed = {body.model.graph.input[0].name: pixels.numpy()}
        (expected,) = run_graph(path, [feed])[0].values()
    with torch.inference_mode():
        found = features.eval()(pixels)
    features.train()
    wanted = torch.from_numpy(expected)
    near = 1e-3 * float(wanted.abs().max())
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-2, atol=near):
        what = "torch computes other features of this file than ONNX Runtime: onnx2torch misreads an operator of it"
        raise ParityError(Problem("model.path", what))


def _classifier(features: nn.Module, width: int, classes: int, flip: bool) -> nn.Module:
    """`features` and a new linear layer behind the calling convention of `Network`."""
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = features
            self.head = nn.Linear(width, classes)

        def forward(self, pixels: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(pixels[:, [2, 1, 0]] if flip else pixels))
            return logits

    return Classifier()
