"""Image networks by their timm name, with timm's own input configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import ImageSpec
from tlcompile.errors import Problem, RecipeError, first_line, nearest
from tlcompile.models._network import Network
from tlcompile.options import Field, PathText, Weights
from tlcompile.options import Options as Base

if TYPE_CHECKING:
    from torch import nn

PACKAGES = ("timm", "torch", "torchvision")
KINDS = ("image",)


class Options(Base):
    name: str = Field(description="a name of timm.list_models(), e.g. tf_efficientnet_lite0")
    weights: Weights = Field(
        "hub", description="'hub', 'none', a .safetensors or .pth file, or 'package:NAME' of an installed package"
    )
    image_size: int = Field(0, ge=0, description="pixels; 0 = the model's own")
    crop_pct: float = Field(
        0.0, ge=0, le=1, description="share of the image kept by the centre crop; 0 = the model's own"
    )
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout before the classifier")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth")


def check(options: Options) -> list[Problem]:
    """What is wrong with `options` as far as timm can tell without building the network."""
    import timm

    architecture = options.name.split(".")[0]
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        return [Problem("model.name", f"timm {timm.__version__} has no model '{options.name}'", near)]
    if isinstance(options.weights, PathText) and not options.weights.absolute.exists():
        return [Problem("model.weights", f"no such file '{options.weights}'")]
    return []


def build(options: Options, classes: int, pretrained: bool = True) -> Network:
    """The network with a new head for `classes`; its body has the weights that `options` name if `pretrained`."""
    from tlcompile.models import _fits, _weights

    arguments: dict[str, Any] = {"drop_rate": options.drop_rate}
    if options.drop_path_rate:
        arguments["drop_path_rate"] = options.drop_path_rate
    arguments |= {"pretrained": pretrained and options.weights == "hub", "num_classes": classes}
    module = _create(options, arguments)
    classifier = module.pretrained_cfg["classifier"]
    head = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if pretrained and isinstance(options.weights, PathText):
        path = options.weights.absolute
        state = _weights.read(path)
        if "_conv_stem.weight" in state:
            state = _weights.from_efficientnet_pytorch(state, [len(stage) for stage in module.blocks])
        _weights.load_into(module, state, head, path.name)
    if options.image_size:
        _fits.check_size(module, options.image_size)
    return Network(module, _spec(module, options), head)


def _create(options: Options, arguments: dict[str, Any]) -> Any:
    """timm's network. Those with position embeddings are built for one size (`img_size`); the others take any."""
    import timm

    try:
        if options.image_size:
            try:
                return timm.create_model(options.name, img_size=options.image_size, **arguments)
            except TypeError:  # no argument of this model
                pass
        return timm.create_model(options.name, **arguments)
    except (AssertionError, ValueError, RuntimeError, OSError, TypeError) as error:
        reason = first_line(error)[:300]
        raise RecipeError(Problem("model.name", f"timm can't build '{options.name}': {reason}")) from error


def _spec(module: nn.Module, options: Options) -> ImageSpec:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(module)
    return ImageSpec(
        image_size=options.image_size or config["input_size"][1],
        crop_pct=options.crop_pct or config["crop_pct"],
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
