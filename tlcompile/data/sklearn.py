"""Data sets that come inside scikit-learn: real data without a download. `digits`: 1,797 handwritten digits, 8 x 8."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tlcompile import options as base
from tlcompile.data._source import ALL, Example, Source
from tlcompile.options import Field

if TYPE_CHECKING:
    import numpy as np

KINDS = ("image",)
LABELS = ("class",)
PACKAGES = ("scikit-learn", "pillow")


class Options(base.Options):
    """`source = "sklearn"`"""

    name: Literal["digits"] = Field("digits", description="digits: 8 x 8 grey images of 10 classes")


def load(options: Options, kind: str, seed: int) -> Source:
    """All images as grey PNG; ink 0..16 becomes 0..255. The set has no split of its own."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    classes = tuple(str(name) for name in digits.target_names)

    def read(split: str) -> Iterator[Example]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Example(f"{options.name}:{index}", _png(image), int(label))

    return Source(f"scikit-learn {options.name}", classes, {ALL: labels}, read)


def _png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] as a grey PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
