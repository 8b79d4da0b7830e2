"""The smallest real things: a data folder, networks and recipes that train in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = {"library": "timm", "name": "test_efficientnet", "weights": "none", "image_size": 32, "crop_pct": 1.0}


def image(label: int, rng: np.random.Generator, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A dark or a bright noisy picture, uint8 [*size, 3]: two classes that a network tells apart at once."""
    return rng.integers(0, 100, (*size, 3), dtype=np.uint8) + np.uint8(120 * label)


def folder(root: Path, per_class: int = 30) -> Path:
    """`root/dark/*.png`, `root/light/*.png`"""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            size = (24, 32) if i % 2 else (40, 20)
            Image.fromarray(image(label, rng, size)).save(root / name / f"{i:03}.png")
    return root


def recipe(
    path: Path,
    data: str = "data",
    epochs: int = 2,
    extra: str = "",
    train: str = "",
    quantize: bool = True,
    image_size: int = 32,
) -> Path:
    """A recipe for `folder` next to it."""
    model = "\n".join(f"{k} = {json.dumps(v)}" for k, v in {**MODEL, "image_size": image_size}.items())
    path.write_text(
        f"""name = "tiny"
[data]
task = "image-classification"
source = "folder"
path = "{data}"
split = {{ train = 0.6, val = 0.2, test = 0.2 }}
calibration = 8
[model]
{model}
[train]
epochs = {epochs}
batch_size = 8
{train}
{"[optimize.quantize]" if quantize else ""}
[[compile]]
backend = "onnxruntime"
[evaluate]
latency_runs = 20
{extra}
"""
    )
    return path


def bert(root: Path) -> Path:
    """A BERT of one layer with random weights, and its tokenizer, as transformers saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "a", "film", "very", "not"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertForSequenceClassification(config).save_pretrained(root)
    fast.save_pretrained(root)
    return root
