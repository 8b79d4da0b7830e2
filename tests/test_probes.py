"""What a graph is asked beside examples."""

from __future__ import annotations

import numpy as np
import pytest

from tlcompile.artifacts import ImageSpec, Signature, TextSpec
from tlcompile.probes import cut, jittered


def test_pictures_are_cut_to_the_size_at_which_the_resize_does_nothing_and_no_pixel_is_mixed() -> None:
    signature = Signature("image-classification", (), (), ("a", "b"), ImageSpec(24, 0.75), "class")
    example = np.arange(2 * 40 * 50 * 3).reshape(2, 40, 50, 3).astype(np.uint8)
    (found,) = cut([{"image": example}], signature)
    assert (found["image"].dtype, found["image"].shape) == (np.dtype(np.uint8), (2, 32, 32, 3))
    levels = {tuple(pixel) for pixel in example.reshape(-1, 3)}
    assert {tuple(pixel) for pixel in found["image"].reshape(-1, 3)} <= levels


def test_texts_have_no_pixels() -> None:
    signature = Signature("text-classification", (), (), ("a", "b"), TextSpec(16), "class")
    assert cut([{"input_ids": np.ones((1, 3), np.int64)}], signature) == []


@pytest.mark.parametrize("level", [0, 128, 255])
def test_jitter_is_one_grey_level_and_never_wraps_round(level: int) -> None:
    feed = {"image": np.full((2, 9, 9, 3), level, np.uint8)}
    moved = jittered([feed])[0]["image"].astype(int) - level
    assert set(np.unique(moved)) == {-1, 0, 1} & set(range(-level, 256 - level))
