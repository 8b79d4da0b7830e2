"""Examples -> the arrays a graph takes. The same code feeds training's reference, calibration, evaluation and a bundle.

Images go in raw (`image`: uint8 [N, H, W, 3], RGB); the graph resizes and normalises. All images of one feed have one
size, so a run over mixed sizes is cut into feeds by size. Text goes in as `input_ids` and `attention_mask`, int64
[N, L], padded to the longest of the feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import Feed, Signature, TextSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Example = np.ndarray | str
Feeder = Callable[[Sequence[Example]], Feed]


def image_feed(images: Sequence[Example]) -> Feed:
    return {"image": np.stack([np.asarray(image) for image in images])}


def open_tokenizer(tokenizer_json: str, spec: TextSpec) -> Tokenizer:
    """The tokenizer of a file's content, which cuts and pads as `spec` says."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.enable_truncation(max_length=spec.max_length)
    tokenizer.enable_padding(pad_id=spec.pad_id, pad_token=tokenizer.id_to_token(spec.pad_id) or "[PAD]")
    return tokenizer


def text_feeder(tokenizer_json: str, spec: TextSpec) -> Feeder:
    """A feeder around `open_tokenizer`; no transformers, no torch."""
    tokenizer = open_tokenizer(tokenizer_json, spec)

    def feed(texts: Sequence[Example]) -> Feed:
        encoded = tokenizer.encode_batch([str(text) for text in texts])
        return {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
        }

    return feed


def feeder(signature: Signature, folder: Path) -> Feeder:
    """The feeder for `signature`; a text graph's `tokenizer.json` lies in `folder`."""
    if isinstance(signature.spec, TextSpec):
        return text_feeder((folder / "tokenizer.json").read_text(encoding="utf-8"), signature.spec)
    return image_feed


def batches(examples: Sequence[Example], size: int) -> Iterator[list[int]]:
    """Indices in batches of at most `size`: images of one shape together, texts of similar length together.

    Examples that know their `shapes` (int [n, 2] height and width, or [n, 1] length of text) are not read for it.
    """
    if not len(examples):
        return
    known = getattr(examples, "shapes", None)
    shapes = known if known is not None else np.array([_shape(example) for example in examples], ndmin=2)
    order = np.lexsort(shapes.T[::-1])
    images = shapes.shape[1] > 1
    cuts = np.flatnonzero(np.diff(shapes[order], axis=0).any(axis=1)) + 1
    for group in np.split(order, cuts) if images else [order]:
        for start in range(0, len(group), size):
            yield group[start : start + size].tolist()


def _shape(example: Example) -> tuple[int, ...]:
    return (len(example),) if isinstance(example, str) else example.shape[:2]
