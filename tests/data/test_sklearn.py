"""Facts about the source `sklearn`."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from tlcompile.data.sklearn import Options, load
from tlcompile.runtime.images import decode


def test_digits_are_grey_images_whose_ink_fills_the_whole_range() -> None:
    source = load(Options(), "image", 0)
    assert source.classes == tuple("0123456789")
    digits, brightest = load_digits(), 0
    for index, example in zip(range(50), source.read("all"), strict=False):
        assert example.label == digits.target[index]
        assert isinstance(example.data, bytes)
        pixels = decode(example.data)
        brightest = max(brightest, int(pixels.max()))
        np.testing.assert_array_equal(pixels[:, :, 1], np.rint(digits.images[index] * 255 / 16))
    assert brightest == 255
