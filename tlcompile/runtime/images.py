"""Encoded image bytes -> pixels. The one decoder of training, evaluation and the bundle, so that all see the same.

Only Pillow and numpy. What cameras and tools write is made RGB as a viewer would show it: EXIF orientation applied,
transparency laid over white, 16-bit grey scaled (Pillow alone would clip it). Not here: resizing and normalising, which
the graph does itself.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000
# Named, because Pillow would also try formats that start other programs (EPS) or are not pictures of one scene (PSD).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")


class UnreadableImage(ValueError):
    """Why these bytes are not an image we take, as the end of a sentence that begins with the file's name."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image in `data` as uint8 [height, width, 3], RGB; the first frame where it has several.

    UnreadableImage, a ValueError, if the bytes are empty, cut off, no image of `FORMATS`, or more than `max_pixels`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise UnreadableImage("is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImage(f"has {width} x {height} pixels; at most {max_pixels} are read")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"is not an image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(f"is too large; at most {max_pixels} pixels are read") from None
    except Exception as error:  # Pillow raises what its parsers happen to meet: OSError, SyntaxError, struct.error, ...
        raise UnreadableImage(f"is damaged: {error or type(error).__name__}") from error


def _rgb(image: Image) -> np.ndarray:
    """A loaded image of any mode as uint8 [H, W, 3]."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise UnreadableImage("has floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return np.array(image.convert("RGB"))


def _from_16_bit(image: Image) -> np.ndarray:
    """Grey 0..65535 as uint8 RGB; the one grey value that a PNG may name transparent becomes white."""
    grey = np.array(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise UnreadableImage("has 32-bit pixels beyond 0..65535; save it with 8 or 16 bits")
    scaled = ((grey * 255 + 32767) // 65535).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return np.repeat(scaled[:, :, None], 3, axis=2)
