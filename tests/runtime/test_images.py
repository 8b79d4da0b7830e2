"""Facts about `tlcompile.runtime.images`: any kind of image becomes the RGB that a viewer shows, or a sentence."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlcompile.runtime.images import UnreadableImage, decode


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photo() -> Image.Image:
    """8 wide, 4 high, smooth enough for JPEG; red rises to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, 8), np.linspace(0, 255, 4))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 40)], axis=2).astype(np.uint8))


def pixel(data: bytes, x: int = 0, y: int = 0) -> list[int]:
    return decode(data)[y, x].tolist()


def test_rgb_comes_out_as_it_is() -> None:
    decoded = decode(encoded(photo()))
    assert decoded.dtype == np.uint8
    assert decoded.flags["C_CONTIGUOUS"]
    assert decoded.flags["WRITEABLE"]
    np.testing.assert_array_equal(decoded, np.asarray(photo()))


@pytest.mark.parametrize(("mode", "value", "shown"), [("L", 77, 77), ("1", 1, 255), ("1", 0, 0)])
def test_grey_and_one_bit_become_equal_channels(mode: str, value: int, shown: int) -> None:
    assert pixel(encoded(Image.new(mode, (2, 2), value))) == [shown] * 3


def test_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([0, 1])
    data = encoded(image)
    assert [pixel(data, 0), pixel(data, 1)] == [[10, 20, 30], [200, 100, 0]]
    transparent = encoded(image, transparency=0)
    assert [pixel(transparent, 0), pixel(transparent, 1)] == [[255, 255, 255], [200, 100, 0]]
    assert pixel(encoded(image, "GIF", transparency=1), 1) == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "value", "shown"),
    [
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ("LA", (0, 0), [255, 255, 255]),
        ("LA", (9, 255), [9, 9, 9]),
    ],
)
def test_transparency_is_laid_over_white(mode: str, value: tuple[int, ...], shown: list[int]) -> None:
    assert pixel(encoded(Image.new(mode, (1, 1), value))) == shown


def test_one_transparent_colour_becomes_white() -> None:
    assert pixel(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))) == [255] * 3
    assert pixel(encoded(Image.new("L", (1, 1), 7), transparency=7)) == [255] * 3


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(form: str) -> None:
    values = np.array([[0, 128, 257, 25700, 32896, 65535]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(values), form))[0, :, 0].tolist() == [0, 0, 1, 100, 128, 255]


def test_16_bit_grey_may_name_a_transparent_value() -> None:
    image = Image.fromarray(np.array([[300, 65535, 0]], dtype=np.uint16))
    assert decode(encoded(image, transparency=300))[0, :, 0].tolist() == [255, 255, 0]


def test_pixels_of_unknown_range_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="floating-point pixels"):
        decode(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))
    with pytest.raises(UnreadableImage, match=r"beyond 0\.\.65535"):
        decode(encoded(Image.fromarray(np.array([[70000]], dtype=np.int32)), "TIFF"))


def test_cmyk_jpeg_has_the_colours_of_its_rgb_twin() -> None:
    difference = decode(encoded(photo().convert("CMYK"), "JPEG", quality=95)).astype(int) - np.asarray(photo())
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """The stored pixels are turned so that the orientation turns them back."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = photo().transpose(undo[orientation]) if orientation in undo else photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encoded(stored, exif=exif)), np.asarray(photo()))
    assert decode(encoded(stored, "JPEG", exif=exif)).shape == (4, 8, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_every_common_format_is_read(form: str) -> None:
    assert decode(encoded(photo(), form)).shape == (4, 8, 3)


def test_the_first_frame_stands_for_an_animation() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    assert pixel(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"label,text\n1,hello\n", "is not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not an image of a known format"),
        (encoded(photo(), "JPEG")[:-60], "is damaged: "),
        (encoded(Image.effect_noise((64, 64), 90), "PNG")[:900], "is damaged: "),
        (encoded(photo())[:20], "is not an image|is damaged"),
    ],
)
def test_what_is_no_whole_image_is_said_plainly(data: bytes, sentence: str) -> None:
    with pytest.raises(UnreadableImage, match=sentence):
        decode(data)


def test_an_image_over_the_limit_is_refused_before_it_is_decoded() -> None:
    assert decode(encoded(photo()), max_pixels=32).shape == (4, 8, 3)
    with pytest.raises(UnreadableImage, match="has 8 x 4 pixels; at most 31 are read"):
        decode(encoded(photo()), max_pixels=31)
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    with pytest.raises(UnreadableImage, match="too large; at most 64000000 pixels"):
        decode(bomb)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"]), st.data())
def test_damage_of_any_kind_gives_pixels_or_a_sentence(form: str, data: st.DataObject) -> None:
    whole = encoded(photo(), form)
    at = data.draw(st.integers(0, len(whole) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=8))
    cut = data.draw(st.integers(1, len(whole)))
    try:
        decoded = decode((whole[:at] + patch + whole[at + len(patch) :])[:cut], max_pixels=10_000)
    except UnreadableImage:
        return
    assert decoded.dtype == np.uint8
    assert decoded.shape[2] == 3
