"""Image networks by their torchvision name, with the preprocessing that their weights were evaluated with."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import ImageSpec
from tlcompile.errors import Problem, RecipeError, first_line, nearest
from tlcompile.models import _fits, _weights
from tlcompile.models._network import Network
from tlcompile.options import Field, PathText, Weights
from tlcompile.options import Options as Base

if TYPE_CHECKING:
    from torch import nn

PACKAGES = ("torchvision", "torch")
KINDS = ("image",)
WITH_EXTRA_HEADS = ("googlenet", "inception_v3")
"""Their auxiliary heads are left out; ImageNet's normalisation is turned into the one that their weights know."""


class Options(Base):
    name: str = Field(description="a name of torchvision.models.list_models(), e.g. resnet18")
    weights: Weights = Field(
        "hub", description="'hub', 'none', a .safetensors or .pth file, or 'package:NAME' of an installed package"
    )
    weights_name: str = Field(
        "",
        description="torchvision's weights and preprocessing by name, e.g. IMAGENET1K_V1; '' = its default",
    )
    image_size: int = Field(0, ge=0, description="pixels; 0 = the model's own")
    crop_pct: float = Field(
        0.0, ge=0, le=1, description="share of the image kept by the centre crop; 0 = the model's own"
    )
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout before the classifier")
    drop_path_rate: float = Field(0.0, ge=0, lt=1, description="stochastic depth")


def check(options: Options) -> list[Problem]:
    """What is wrong with `options` as far as torchvision can tell without building the network."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if options.name not in known:
        what = f"torchvision {torchvision.__version__} has no model '{options.name}' that classifies images"
        return [Problem("model.name", what, nearest(options.name, known))]
    problems = []
    names = [w.name for w in torchvision.models.get_model_weights(options.name)]
    if options.weights_name and options.weights_name not in names:
        what = f"{options.name} has no weights '{options.weights_name}', only {', '.join(names)}"
        problems.append(Problem("model.weights_name", what, nearest(options.weights_name, names)))
    if isinstance(options.weights, PathText) and not options.weights.absolute.exists():
        problems.append(Problem("model.weights", f"no such file '{options.weights}'"))
    return problems


def build(options: Options, classes: int, pretrained: bool = True) -> Network:
    """The network with a new head for `classes`; its body has the weights that `options` name if `pretrained`."""
    if pretrained and (problems := check(options)):
        raise RecipeError(*problems)
    spec = _spec(options)
    module = _module(options, spec.image_size, classes)
    head = _last_layer(module)
    if pretrained and options.weights != "none":
        if isinstance(options.weights, PathText):
            state, file = _weights.read(options.weights.absolute), options.weights.absolute.name
        else:
            state, file = _download(options), f"torchvision's {options.name}"
        _weights.load_into(module, _fitted(state, module, options.name), (head,), file)
    if options.image_size:
        _fits.check_size(module, options.image_size)
    return Network(module, spec, (head,))


def _module(options: Options, size: int, classes: int) -> nn.Module:
    """The network with random weights."""
    from torchvision.models import get_model

    arguments: dict[str, Any] = {}
    if options.name in WITH_EXTRA_HEADS:
        arguments = {"aux_logits": False, "transform_input": True, "init_weights": False}
    elif options.name.startswith("vit_"):
        arguments = {"image_size": size}
    elif options.name.startswith("maxvit_"):
        arguments = {"input_size": (size, size)}
    try:
        module: nn.Module = get_model(options.name, weights=None, num_classes=classes, **arguments)
    except (ValueError, AssertionError, RuntimeError) as error:
        reason = first_line(error)[:200]
        what = f"{options.name} can't be built for {size} pixels: {reason}"
        raise RecipeError(Problem("model.image_size", what)) from error
    _drop(module, options)
    return module


def _drop(module: nn.Module, options: Options) -> None:
    """Set the dropouts that stand beside the last layer, and stochastic depth, which rises over the blocks.

    RecipeError where the model has none of what is asked for.
    """
    import torch
    from torchvision.ops import StochasticDepth

    beside = module.get_submodule(_last_layer(module).rpartition(".")[0]).children()
    drops = [child for child in beside if isinstance(child, torch.nn.Dropout)]
    depths = [m for m in module.modules() if isinstance(m, StochasticDepth)]
    for drop in drops:
        drop.p = options.drop_rate
    for i, depth in enumerate(depths):
        depth.p = options.drop_path_rate * i / max(1, len(depths) - 1)
    asked = {"drop_rate": (options.drop_rate, drops, "dropout beside its last layer")}
    asked["drop_path_rate"] = (options.drop_path_rate, depths, "stochastic depth")
    if lacks := [
        Problem(f"model.{k}", f"{options.name} has no {what}") for k, (on, has, what) in asked.items() if on and not has
    ]:
        raise RecipeError(*lacks)


def _last_layer(module: nn.Module) -> str:
    """Prefix of the layer that gives the logits: the last linear layer or, in SqueezeNet, convolution."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    names: list[str] = [name for name, child in module.named_modules() if isinstance(child, kinds)]
    return names[-1]


def _preset(options: Options) -> Any:
    """The entry of torchvision's enumeration of weights that the recipe names."""
    from torchvision.models import get_model_weights

    known = get_model_weights(options.name)
    return known[options.weights_name] if options.weights_name else known.DEFAULT


def _download(options: Options) -> _weights.State:
    """torchvision's weights, from its cache or its server; RecipeError where they can't be had."""
    try:
        return dict(_preset(options).get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        what = f"torchvision's weights of {options.name} can't be had: {str(error).splitlines()[0][:200]}"
        raise RecipeError(Problem("model.weights", what)) from error


def _fitted(state: _weights.State, module: Any, name: str) -> _weights.State:
    """DenseNet's old names turned into today's; position embeddings of a ViT stretched to the size of `module`."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")
    state = {old.sub(r"\1\2.", key): value for key, value in state.items()}
    position = state.get("encoder.pos_embedding")
    if not name.startswith("vit_") or position is None or position.shape == module.encoder.pos_embedding.shape:
        return state
    return dict(interpolate_embeddings(module.image_size, module.patch_size, OrderedDict(state)))


def _spec(options: Options) -> ImageSpec:
    how = _preset(options).transforms()
    crop, resize = how.crop_size[0], how.resize_size[0]
    return ImageSpec(
        image_size=options.image_size or crop,
        crop_pct=options.crop_pct or crop / resize,
        interpolation="bilinear" if how.interpolation.value == "bilinear" else "bicubic",
        mean=tuple(how.mean),
        std=tuple(how.std),
    )
