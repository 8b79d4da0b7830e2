"""Tiny networks of the families that people fine-tune, with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision.models import DenseNet, MobileNetV2, VisionTransformer, get_model
from transformers import (
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    PreTrainedConfig,
    RobertaConfig,
)

from tests.tiny import bert
from tlcompile.artifacts import ImageSpec
from tlcompile.models import transformers as library
from tlcompile.models._network import Network

SIZE, CLASSES, WORDS = 64, 3, 10
ENCODER = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER |= {"intermediate_size": 24, "max_position_embeddings": 20}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(**ENCODER),
    "roberta": lambda: RobertaConfig(**ENCODER),
    "deberta-v2": lambda: DebertaV2Config(
        **ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3, norm_rel_ebd="layer_norm"
    ),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=WORDS, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=20
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=1
    ),
}
TIMM = ("test_efficientnet", "test_resnet", "test_vit", "test_convnext", "test_nfnet")
TORCHVISION: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "alexnet": (lambda: get_model("alexnet", num_classes=CLASSES), "classifier.6"),
    "mobilenet_v2": (lambda: MobileNetV2(CLASSES, width_mult=0.25), "classifier.1"),
    "densenet": (lambda: DenseNet(4, (2, 2), 8, num_classes=CLASSES), "classifier"),
    "resnet18": (lambda: get_model("resnet18", num_classes=CLASSES), "fc"),
    "vit": (lambda: VisionTransformer(SIZE, 16, 3, 2, 16, 24, num_classes=CLASSES), "heads.head"),
}
IMAGE = (*TIMM, *TORCHVISION)
TEXT = tuple(CONFIGS)
EVERY = (*IMAGE, *TEXT)


def network(name: str, drop_rate: float = 0.0) -> Network:
    """One of `EVERY`, always with the same weights; `drop_rate` is that of timm's networks."""
    torch.manual_seed(0)
    if name in CONFIGS:
        options = library.Options.model_validate(
            {"name": str(folder(name)), "max_length": 16}, context={"base": Path()}
        )
        return library.build(options, CLASSES, pretrained=False)
    if name in TORCHVISION:
        make, layer = TORCHVISION[name]
        return Network(make(), ImageSpec(SIZE), (layer,))
    sized = {"img_size": SIZE} if "vit" in name else {}
    module = timm.create_model(name, num_classes=CLASSES, drop_rate=drop_rate, **sized)
    return Network(module, ImageSpec(SIZE), (module.pretrained_cfg["classifier"],))


_FOLDERS = tempfile.TemporaryDirectory()  # removed when the tests end


@cache
def folder(name: str) -> Path:
    """The configuration of a family of text networks beside the tokenizer of ten words of `tests.tiny`."""
    root = bert(Path(_FOLDERS.name) / name)
    CONFIGS[name]().save_pretrained(root)
    return root


def inputs(net: Network, n: int = 4, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """Random arguments of `net.module`; texts are of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(net.spec, ImageSpec):
        return (torch.randn(n, 3, SIZE, SIZE, generator=generator),)
    ids = torch.randint(2, WORDS, (n, 8), generator=generator)
    mask = (torch.arange(8) < torch.arange(8, 8 - n, -1)[:, None]).long()
    return ids * mask, mask
