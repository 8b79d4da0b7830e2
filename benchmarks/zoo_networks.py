"""The networks of the zoo: small, with random weights that are made lively, and what they are fed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDE = 96

# fmt: off
TIMM = (
    "tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100",
    "mobilenetv4_conv_small", "resnet18", "resnet50", "resnext50_32x4d", "seresnet50", "regnetx_002",
    "regnety_002", "densenet121", "vgg11_bn", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224", "convnext_atto", "convnextv2_atto", "ghostnet_100", "repvgg_a0",
    "mixer_s32_224", "mobilevit_xxs", "edgenext_xx_small",
)
TORCHVISION = (
    "alexnet", "vgg11", "resnet18", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
    "regnet_x_400mf", "convnext_tiny", "swin_t", "vit_b_32", "squeezenet1_1", "shufflenet_v2_x0_5",
    "mnasnet0_5", "googlenet",
)
ONNX = ("resnet18",)
TEXT = (
    "bert", "minilm", "roberta", "xlm-roberta", "distilbert", "deberta", "deberta-v2", "albert", "electra",
    "mpnet", "modernbert", "gpt2",
)
# fmt: on
ALL = (
    *(f"timm/{name}" for name in TIMM),
    *(f"torchvision/{name}" for name in TORCHVISION),
    *(f"onnx/{name}" for name in ONNX),
    *(f"transformers/{name}" for name in TEXT),
)
WIDER = {
    **dict.fromkeys(("hidden_size", "dim", "n_embd"), 128),
    **dict.fromkeys(("intermediate_size", "hidden_dim"), 256),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_attention_heads", "n_heads", "n_head"), 4),
    "embedding_size": 64,
}


def network_of(name: str, folder: Path) -> Any:
    """The network of three classes of an architecture in `ALL`, random and made lively."""
    import torch

    from tlcompile import registry

    library, _, model = name.partition("/")
    torch.manual_seed(0)
    module = registry.load("models", library)
    values: dict[str, Any] = {"name": model, "weights": "none", "image_size": SIDE}
    if library == "onnx":
        values = {"path": str(_onnx_file(model, folder / "start.onnx")), "image_size": SIDE}
    elif library == "transformers":
        from tests import families

        family, changed = ("bert", {"num_hidden_layers": 6}) if model == "minilm" else (model, {})
        size = {key: WIDER[key] for key in families.TEXT[family][1] if key in WIDER} | changed
        values = {"name": str(families.text_folder(folder / "model", family, initializer_range=0.09, **size))}
        values["max_length"] = families.LIMIT
    network = module.build(module.Options.model_validate(values, context={"base": ROOT}), 3)
    _enliven(network)
    return network


def _onnx_file(name: str, path: Path) -> Path:
    """A torchvision network as a file of others would be: one image a call, logits of 1,000 classes."""
    import torch
    from torchvision.models import get_model

    pixels = torch.zeros(1, 3, SIDE, SIDE)
    torch.onnx.export(get_model(name, weights=None).eval(), (pixels,), str(path), dynamo=False, opset_version=17)
    return path


def _enliven(network: Any) -> None:
    """Normalisation statistics of random pictures; a head whose logits have mean 0 and deviation 1 over examples."""
    import torch

    from tests.families import feeds_of
    from tlcompile.artifacts import ImageSpec

    if isinstance(network.spec, ImageSpec):
        coarse = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        size = (network.spec.image_size,) * 2
        inputs = [(torch.nn.functional.interpolate(coarse, size=size, mode="bicubic"),)]
    else:
        inputs = [tuple(torch.from_numpy(array) for array in feed.values()) for feed in feeds_of(network)]
    norms = [m for m in network.module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        if norms:
            network.module.train()(*inputs[0])
        last = [m for m in _head_modules(network) if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)][-1]
        if not last.weight.any():  # as torchvision's transformers begin: their answers are all alike
            torch.nn.init.normal_(last.weight, std=0.02)
        logits = torch.cat([network.module.eval()(*batch) for batch in inputs])
        scale = 1 / logits.std(0).clamp(min=1e-3)
        last.weight.mul_(scale.view(-1, *(1,) * (last.weight.ndim - 1)))
        if last.bias is not None and logits.min() < 0:  # SqueezeNet has a ReLU behind its last layer
            last.bias.sub_(logits.mean(0)).mul_(scale)


def _head_modules(network: Any) -> list[Any]:
    return [m for prefix in network.head for m in network.module.get_submodule(prefix).modules()]


def pictures(spec: Any) -> list[dict[str, Any]]:
    """Raw images of two sizes, with broad structure so that answers differ."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    found = []
    for height, width in ((SIDE, SIDE), (SIDE + 32, SIDE)):
        coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(8)]
        images = [image.resize((width, height), Image.Resampling.BICUBIC) for image in coarse]
        found.append({"image": np.stack([np.asarray(image) for image in images])})
    return found
