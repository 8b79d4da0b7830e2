"""What the network really receives, written down just before it does: a picture or a text file for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tlcompile.artifacts import ImageSpec, TextSpec

_TILE, _CAPTION, _GAP = 128, 14, 4  # pixels: least side of a tile, height of its caption, space between


def save(
    inputs: dict[str, Tensor],
    targets: Tensor,
    classes: Sequence[str],
    spec: ImageSpec | TextSpec,
    folder: Path,
    n: int = 16,
    tokenizer: str | None = None,
) -> None:
    """The first `n` of a batch: `views.png`, a grid of the images un-normalised, or `views.txt`, a text a line.

    Texts are decoded by `tokenizer`, special tokens included; without one they are token ids.
    """
    names = [caption(target, classes) for target in targets[:n].detach().cpu()]
    if isinstance(spec, ImageSpec):
        grid(pixels(inputs["pixels"][:n], spec), names).save(folder / "views.png")
        return
    lines = [f"{name}\t{text}\n" for name, text in zip(names, texts(inputs, n, tokenizer), strict=True)]
    (folder / "views.txt").write_text("".join(lines), encoding="utf-8")


def caption(target: Tensor, classes: Sequence[str]) -> str:
    """A class, the classes with their shares (the two largest), or a number."""
    if target.ndim == 0:
        return f"{target:.3g}" if target.is_floating_point() else classes[int(target)]
    top = target.topk(min(2, len(target)))
    named = [f"{classes[i]} {v:.2f}" for v, i in zip(top.values.tolist(), top.indices.tolist(), strict=True) if v > 0]
    return ", ".join(named) or "none"


def pixels(images: Tensor, spec: ImageSpec) -> np.ndarray:
    """Normalised float [N, 3, H, W] -> uint8 [N, H, W, 3]."""
    images = images.detach().float().cpu()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    found: np.ndarray = ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return found


def grid(images: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Tiles in rows, each with its caption below; small images are enlarged by whole factors, so pixels stay pixels."""
    times = max(1, -(-_TILE // images.shape[2]))
    height, width = images.shape[1] * times, images.shape[2] * times
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    step = width + _GAP, height + _CAPTION + _GAP
    page = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + _GAP), "white")
    draw = ImageDraw.Draw(page)
    for i, (image, name) in enumerate(zip(images, names, strict=True)):
        left, top = _GAP + i % columns * step[0], _GAP + i // columns * step[1]
        page.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + height), name[: width // 6], fill="black")
    return page


def texts(inputs: dict[str, Tensor], n: int, tokenizer: str | None) -> list[str]:
    """The first `n` texts without their padding."""
    ids = [
        row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"][:n], inputs["attention_mask"], strict=False)
    ]
    if tokenizer is None:
        return [" ".join(map(str, row)) for row in ids]
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer).decode_batch(ids, skip_special_tokens=False)
